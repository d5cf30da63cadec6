package wasm

import (
	"errors"
	"fmt"
	"strings"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/wasm/meter"
)

const (
	traceFrames = 6  // of the guest's stack in a trap's message
	traceName   = 80 // bytes of a function's name there
)

// trap makes a *guest.Trap of the error that a call ended with.
func (i *instance) trap(err error) error {
	t := &guest.Trap{Cause: "unreachable"}
	words, frames := parseTrap(err.Error())
	var exit exitError
	switch cause := meter.CauseOf(int64(i.budget.Get()), int64(i.depth.Get())); {
	case errors.As(err, &exit):
		t.Cause, words, frames = "exit", exit.Error(), nil
	case cause == meter.CauseBudget:
		t.Cause, words = "budget", cause.String()
	case cause == meter.CauseDepth:
		t.Cause, words = "depth", cause.String()
	case words == "out of bounds memory access":
		t.Cause = "memory"
	case words == "stack overflow":
		t.Cause = "depth"
	}
	if len(frames) > 0 {
		words += " in " + strings.Join(frames, " < ")
	}
	if said := i.said.said(); said != "" {
		words += fmt.Sprintf("; it wrote %q", said)
	}
	i.said.flush(i.module.lines)
	t.Err = errors.New(words)
	return t
}

// parseTrap takes apart what wazero says: "wasm error: WHAT\nwasm stack
// trace:\n\tFRAME\n\tFRAME".
func parseTrap(text string) (words string, frames []string) {
	words, trace, _ := strings.Cut(text, "\n")
	words = strings.TrimPrefix(words, "wasm error: ")
	for line := range strings.Lines(trace) {
		name, _, _ := strings.Cut(strings.Trim(line, "\t\n."), "(") // without its signature
		if !strings.HasPrefix(line, "\t") || name == "" {
			continue
		}
		if len(frames) == traceFrames {
			break
		}
		frames = append(frames, shorten(name, traceName))
	}
	return words, frames
}

// shorten cuts a text of a stranger's down and takes out what could disturb a
// terminal.
func shorten(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// guard turns a panic in the runtime's own code, which reads strangers'
// modules, into an error.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the WebAssembly runtime failed: %v", p)
		}
	}()
	return f()
}
