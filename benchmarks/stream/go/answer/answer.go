// Package answer reads the command line of a measured program and prints one line of JSON, as
// benchmarks/stream/program.py does for the programs in Python.
package answer

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Question is what a program is asked: CASE VARIANT --size N [--events FILE].
type Question struct {
	Case, Variant, Events string
	Size                  int
}

// Read returns the question on the command line.
func Read() Question {
	if len(os.Args) < 3 {
		Fail("usage: CASE VARIANT --size N [--events FILE]")
	}
	question := Question{Case: os.Args[1], Variant: os.Args[2]}
	flags := flag.NewFlagSet(os.Args[0], flag.ExitOnError)
	flags.IntVar(&question.Size, "size", 0, "number of items")
	flags.StringVar(&question.Events, "events", "", "lines of JSON")
	_ = flags.Parse(os.Args[3:])
	return question
}

// Fail ends the program.
func Fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}

// Answer is the line that is printed; the driver picks what belongs to the case.
type Answer struct {
	Case           string    `json:"case"`
	Variant        string    `json:"variant"`
	Size           int       `json:"size"`
	Seconds        float64   `json:"seconds"`
	Processor      float64   `json:"processor"`
	PlainSeconds   float64   `json:"plain_seconds"`
	PlainProcessor float64   `json:"plain_processor"`
	Total          int       `json:"total"`
	Events         int       `json:"events"`
	Hits           float64   `json:"hits"`
	Waits          []float64 `json:"waits"`
}

// Print prints the answer to a question.
func (answer Answer) Print(question Question) {
	answer.Case, answer.Variant, answer.Size = question.Case, question.Variant, question.Size
	line, err := json.Marshal(answer)
	if err != nil {
		Fail(err.Error())
	}
	fmt.Println(string(line))
}

// Clocked returns the seconds and the processor seconds of a call, and what it returned.
func Clocked(run func() int) (seconds, processor float64, total int) {
	begun, busy := time.Now(), used()
	total = run()
	return time.Since(begun).Seconds(), used() - busy, total
}

func used() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		Fail(err.Error())
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
