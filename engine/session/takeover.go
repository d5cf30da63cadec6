package session

import (
	"context"
	"errors"
	"time"
)

// Method is how a generation takes over from the one before (DESIGN chapter 5).
type Method uint8

// The methods, in order of preference.
const (
	Handover      Method = iota + 1 // the new version goes on, on the same sockets
	SecondSession                   // it logs in beside the old one, which is drained
	Serial                          // the old one is drained and takes leave first
)

var methodNames = [...]string{"", "handover", "second-session", "serial"}

func (m Method) String() string { return methodNames[m] }

// ParseMethod is the inverse of String.
func ParseMethod(s string) (Method, bool) {
	for m := Handover; m <= Serial; m++ {
		if m.String() == s {
			return m, true
		}
	}
	return 0, false
}

// Takeover is an order to go over to another generation.
type Takeover struct {
	To      *Generation
	Methods []Method      // that may be used, tried in this order; none: all
	Drain   time.Duration // how long what is outstanding may take to finish
	// Report is told what happens, in a line, on the caller's goroutine. May be nil.
	Report func(m Method, text string)
}

// Outcome of a takeover.
type Outcome struct {
	Method Method
	Pause  time.Duration // the longest that a request had to wait for it
}

// ErrNotVerified says that a generation cannot be tried beside the one that
// runs: the server admits no further connection, or the protocol has one
// session only, or the volume is not online.
var ErrNotVerified = errors.New("session: no second connection can be had to try the plugin on")

// Verify has g log in on a connection of its own, compares the disk with the
// volume's, and takes leave. Nothing else changes. The error is ErrNotVerified
// if that is not possible here.
func (s *Session) Verify(ctx context.Context, g *Generation) error {
	return ErrNotVerified
}

// TakeOver goes over to another generation without failing a request. When it
// fails the generation before goes on; no request has failed then either.
// It is called by one goroutine at a time.
func (s *Session) TakeOver(ctx context.Context, t Takeover) (Outcome, error) {
	return Outcome{}, errors.New("session: TakeOver is not there yet")
}

// Cut goes over to g at once, because the generation that runs is not to be
// trusted: its connections are given up as if they had failed, with the fence
// and the replay that this takes (rules 1 and 3).
func (s *Session) Cut(g *Generation, why string) {}

// Generation is the one that runs.
func (s *Session) Generation() *Generation { return nil }
