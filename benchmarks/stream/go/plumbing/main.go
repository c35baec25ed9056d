// Plumbing: a goroutine per stage, a channel before each; five stages, of which the last is the sink.
//
// Variants: select-N sends and receives in a select with the Done channel of a context, so that every stage can
// be cancelled; channel-N sends and receives plainly; pointers-N does so with pointers to structs; chunks-N
// sends slices of N through plain channels with room for 16. Other Ns are the room in a channel.
package main

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"sidestage/benchmarks/stream/answer"
)

const interval = 10 * time.Millisecond

//go:noinline
func first(number int) int { return number + 1 }

//go:noinline
func second(number int) int { return number + 1 }

//go:noinline
func third(number int) int { return number + 1 }

//go:noinline
func fourth(number int) int { return number + 1 }

var four = []func(int) int{first, second, third, fourth}

type total struct{ value int }

//go:noinline
func (sum *total) add(number int) { sum.value += number }

type box struct{ number int }

// loop calls the five functions and does nothing else.
func loop(items int) int {
	sum := &total{}
	for number := 0; number < items; number++ {
		sum.add(fourth(third(second(first(number)))))
	}
	return sum.value
}

// selecting starts a stage that can be cancelled wherever it waits.
func selecting[T any](ctx context.Context, in <-chan T, function func(T) T, room int) <-chan T {
	out := make(chan T, room)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case item, open := <-in:
				if !open {
					return
				}
				select {
				case <-ctx.Done():
					return
				case out <- function(item):
				}
			}
		}
	}()
	return out
}

// plain starts a stage that waits for its neighbours alone.
func plain[T any](_ context.Context, in <-chan T, function func(T) T, room int) <-chan T {
	out := make(chan T, room)
	go func() {
		defer close(out)
		for item := range in {
			out <- function(item)
		}
	}()
	return out
}

type stage[T any] func(ctx context.Context, in <-chan T, function func(T) T, room int) <-chan T

// layout is how stages are joined: by which kind of stage, and whether source and sink can be cancelled, too.
type layout[T any] struct {
	start       stage[T]
	cancellable bool
	room        int
}

func layoutOf[T any](kind string, room int) layout[T] {
	if kind == "select" {
		return layout[T]{selecting[T], true, room}
	}
	return layout[T]{plain[T], false, room}
}

// flow sends what feed gives through the stages and calls the sink.
func flow[T any](how layout[T], feed func(func(T)), functions []func(T) T, sink func(T)) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := make(chan T, how.room)
	last := (<-chan T)(out)
	for _, function := range functions {
		last = how.start(ctx, last, function, how.room)
	}
	send := func(item T) { out <- item }
	if how.cancellable {
		send = func(item T) {
			select {
			case <-ctx.Done():
			case out <- item:
			}
		}
	}
	go func() {
		defer close(out)
		feed(send)
	}()
	if !how.cancellable {
		for item := range last {
			sink(item)
		}
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case item, open := <-last:
			if !open {
				return
			}
			sink(item)
		}
	}
}

func addUp(how layout[int], items int) int {
	sum := &total{}
	feed := func(send func(int)) {
		for number := 0; number < items; number++ {
			send(number)
		}
	}
	flow(how, feed, four, sum.add)
	return sum.value
}

func addUpPointers(room, items int) int {
	sum := &total{}
	var functions []func(*box) *box
	for _, function := range four {
		function := function
		functions = append(functions, func(item *box) *box {
			item.number = function(item.number)
			return item
		})
	}
	feed := func(send func(*box)) {
		for number := 0; number < items; number++ {
			send(&box{number})
		}
	}
	flow(layoutOf[*box]("pointers", room), feed, functions, func(item *box) { sum.add(item.number) })
	return sum.value
}

func addUpChunks(size, items int) int {
	sum := &total{}
	var functions []func([]int) []int
	for _, function := range four {
		function := function
		functions = append(functions, func(chunk []int) []int {
			for index, number := range chunk {
				chunk[index] = function(number)
			}
			return chunk
		})
	}
	feed := func(send func([]int)) {
		for begin := 0; begin < items; begin += size {
			chunk := make([]int, 0, size)
			for number := begin; number < begin+size && number < items; number++ {
				chunk = append(chunk, number)
			}
			send(chunk)
		}
	}
	flow(layoutOf[[]int]("chunks", 16), feed, functions, func(chunk []int) {
		for _, number := range chunk {
			sum.add(number)
		}
	})
	return sum.value
}

func run(kind string, number, items int) int {
	switch kind {
	case "select", "channel":
		return addUp(layoutOf[int](kind, number), items)
	case "pointers":
		return addUpPointers(number, items)
	case "chunks":
		return addUpChunks(number, items)
	}
	answer.Fail("there is no variant " + kind)
	return 0
}

// wait returns the seconds that each of some items took, sent apart by the interval.
func wait(kind string, room, items int) []float64 {
	same := func(moment time.Time) time.Time { return moment }
	var waits []float64
	feed := func(send func(time.Time)) {
		begun := time.Now()
		for number := 0; number < items; number++ {
			time.Sleep(time.Until(begun.Add(time.Duration(number) * interval)))
			send(time.Now())
		}
	}
	functions := []func(time.Time) time.Time{same, same, same, same}
	flow(layoutOf[time.Time](kind, room), feed, functions, func(moment time.Time) {
		waits = append(waits, time.Since(moment).Seconds())
	})
	return waits
}

func main() {
	question := answer.Read()
	kind, text, _ := strings.Cut(question.Variant, "-")
	number, err := strconv.Atoi(text)
	if err != nil {
		answer.Fail("a variant is a kind and a number: " + question.Variant)
	}
	var found answer.Answer
	switch question.Case {
	case "latency":
		wait(kind, number, 3)
		found.Waits = wait(kind, number, question.Size)
	case "memory":
		found.Total = run(kind, number, question.Size)
	case "plumbing":
		alone := func() int { return loop(question.Size) }
		run(kind, number, 500)
		before, busyBefore, expected := answer.Clocked(alone)
		runtime.GC()
		found.Seconds, found.Processor, found.Total = answer.Clocked(func() int {
			return run(kind, number, question.Size)
		})
		after, busyAfter, _ := answer.Clocked(alone)
		found.PlainSeconds, found.PlainProcessor = (before+after)/2, (busyBefore+busyAfter)/2
		if found.Total != expected {
			answer.Fail(fmt.Sprintf("the sum is %d, not %d", found.Total, expected))
		}
	default:
		answer.Fail("there is no case " + question.Case)
	}
	found.Print(question)
}
