// Enrichment of log events: decode JSON, by user into 16, look up through an LRU cache, batch, encode.
//
// Channels hold 16, items are pointers, every send and receive is in a select with the Done channel of a
// context. Two goroutines decode, one per partition looks up, one makes batches of 1000 and encodes them.
// Variants: standard decodes and encodes with encoding/json, goccy with github.com/goccy/go-json.
package main

import (
	"bytes"
	"container/list"
	"context"
	stdjson "encoding/json"
	"hash/maphash"
	"os"
	"runtime"
	"strconv"
	"sync"

	gojson "github.com/goccy/go-json"
	"sidestage/benchmarks/stream/answer"
)

const (
	partitions = 16
	capacity   = 10_000
	size       = 1000
	room       = 16
	decoders   = 2
)

type event struct {
	Time         string  `json:"time"`
	User         string  `json:"user"`
	Level        string  `json:"level"`
	Service      string  `json:"service"`
	Path         string  `json:"path"`
	Status       int     `json:"status"`
	Milliseconds float64 `json:"milliseconds"`
	Message      string  `json:"message"`
	Account      int     `json:"account"`
}

type codec struct {
	decode func([]byte, any) error
	encode func(any) ([]byte, error)
}

var codecs = map[string]codec{
	"standard": {stdjson.Unmarshal, stdjson.Marshal},
	"goccy": {
		func(data []byte, into any) error { return gojson.Unmarshal(data, into) },
		func(value any) ([]byte, error) { return gojson.Marshal(value) },
	},
}

// accountOf looks a user up: a free local function.
func accountOf(user string) int {
	number, err := strconv.Atoi(user[5:])
	if err != nil {
		answer.Fail(err.Error())
	}
	return number * 7919 % 100_003
}

type entry struct {
	user    string
	account int
}

// cache keeps the users that were asked for last.
type cache struct {
	places map[string]*list.Element
	order  *list.List
	hits   int
}

func newCache() *cache {
	return &cache{places: make(map[string]*list.Element, capacity), order: list.New()}
}

func (kept *cache) account(user string) int {
	if place, found := kept.places[user]; found {
		kept.hits++
		kept.order.MoveToFront(place)
		return place.Value.(*entry).account
	}
	if kept.order.Len() == capacity {
		oldest := kept.order.Back()
		delete(kept.places, oldest.Value.(*entry).user)
		kept.order.Remove(oldest)
	}
	account := accountOf(user)
	kept.places[user] = kept.order.PushFront(&entry{user, account})
	return account
}

func send[T any](ctx context.Context, out chan<- T, item T) bool {
	select {
	case <-ctx.Done():
		return false
	case out <- item:
		return true
	}
}

func receive[T any](ctx context.Context, in <-chan T) (item T, open bool) {
	select {
	case <-ctx.Done():
		return item, false
	case item, open = <-in:
		return item, open
	}
}

// workers runs a function so many times at once, and then closes a channel.
func workers[T any](count int, out chan T, work func(int)) {
	var group sync.WaitGroup
	for number := 0; number < count; number++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			work(number)
		}(number)
	}
	go func() {
		group.Wait()
		close(out)
	}()
}

func enrich(ctx context.Context, lines [][]byte, caches []*cache, seed maphash.Seed, with codec) [][]byte {
	raw, enriched, decoded := make(chan []byte, room), make(chan *event, room), make(chan struct{})
	var parts [partitions]chan *event
	for number := range parts {
		parts[number] = make(chan *event, room)
	}
	go func() {
		defer close(raw)
		for _, line := range lines {
			if !send(ctx, raw, line) {
				return
			}
		}
	}()
	workers(decoders, decoded, func(int) {
		for line, open := receive(ctx, raw); open; line, open = receive(ctx, raw) {
			item := &event{}
			if err := with.decode(line, item); err != nil {
				answer.Fail(err.Error())
			}
			send(ctx, parts[maphash.String(seed, item.User)%partitions], item)
		}
	})
	go func() {
		<-decoded
		for _, part := range parts {
			close(part)
		}
	}()
	workers(partitions, enriched, func(number int) {
		for item, open := receive(ctx, parts[number]); open; item, open = receive(ctx, parts[number]) {
			item.Account = caches[number].account(item.User)
			send(ctx, enriched, item)
		}
	})
	return batched(ctx, enriched, with)
}

func batched(ctx context.Context, enriched <-chan *event, with codec) [][]byte {
	var batches [][]byte
	var batch bytes.Buffer
	count := 0
	for item, open := receive(ctx, enriched); open; item, open = receive(ctx, enriched) {
		line, err := with.encode(item)
		if err != nil {
			answer.Fail(err.Error())
		}
		batch.Write(append(line, '\n'))
		if count++; count%size == 0 {
			batches = append(batches, append([]byte(nil), batch.Bytes()...))
			batch.Reset()
		}
	}
	return append(batches, batch.Bytes())
}

func hits(caches []*cache) (sum int) {
	for _, kept := range caches {
		sum += kept.hits
	}
	return sum
}

func main() {
	question := answer.Read()
	with, known := codecs[question.Variant]
	if !known || question.Case != "enrichment" {
		answer.Fail("there is no such case or variant")
	}
	data, err := os.ReadFile(question.Events)
	if err != nil {
		answer.Fail(err.Error())
	}
	lines := bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seed := maphash.MakeSeed()
	var caches []*cache
	for number := 0; number < partitions; number++ {
		caches = append(caches, newCache())
	}
	enrich(ctx, lines[:len(lines)-question.Size], caches, seed, with)
	before := hits(caches)
	runtime.GC()
	var batches [][]byte
	var found answer.Answer
	found.Seconds, found.Processor, _ = answer.Clocked(func() int {
		batches = enrich(ctx, lines[len(lines)-question.Size:], caches, seed, with)
		return 0
	})
	found.Hits = float64(hits(caches)-before) / float64(question.Size)
	for _, line := range bytes.Split(bytes.Join(batches, nil), []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		var item event
		if err := stdjson.Unmarshal(line, &item); err != nil {
			answer.Fail(err.Error())
		}
		found.Events++
		found.Total += item.Account
	}
	found.Print(question)
}
