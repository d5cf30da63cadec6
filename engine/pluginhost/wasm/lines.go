package wasm

import (
	"bytes"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	maxLine   = 512 // bytes of a line that are kept
	lineQueue = 64  // lines that wait for the log
	lineBurst = 64  // lines at once
	lineRate  = 10  // lines a second after that
	lineRoom  = 256 // bytes of what was said that a trap repeats
)

// lineSink brings what guests write to their standard output and error to the
// log. Guests run on reactors and a log may block, so a goroutine of the
// module's stands between, and what comes too fast is dropped and counted.
type lineSink struct {
	log     *slog.Logger
	queue   chan string
	stop    chan struct{}
	stopped chan struct{}
	dropped atomic.Uint64
}

func newLineSink(log *slog.Logger) *lineSink {
	s := &lineSink{log: log, queue: make(chan string, lineQueue), stop: make(chan struct{}), stopped: make(chan struct{})}
	go s.drain()
	return s
}

// put hands a line over, or drops it. It never blocks.
func (s *lineSink) put(line []byte) {
	if len(s.queue) == cap(s.queue) { // spare the copy
		s.dropped.Add(1)
		return
	}
	select {
	case s.queue <- string(line):
	default:
		s.dropped.Add(1)
	}
}

func (s *lineSink) drain() {
	defer close(s.stopped)
	tokens, last := float64(lineBurst), time.Now()
	for {
		var line string
		select {
		case line = <-s.queue:
		case <-s.stop:
			s.rest()
			return
		}
		now := time.Now()
		tokens = min(lineBurst, tokens+now.Sub(last).Seconds()*lineRate)
		last = now
		if tokens < 1 {
			s.dropped.Add(1)
			continue
		}
		tokens--
		s.write(line)
	}
}

// rest writes what still waits: a trap's last words come just before the end.
func (s *lineSink) rest() {
	for {
		select {
		case line := <-s.queue:
			s.write(line)
		default:
			return
		}
	}
}

func (s *lineSink) write(line string) {
	if n := s.dropped.Swap(0); n > 0 {
		s.log.Warn("plugin wrote", "line", line, "dropped_before", n)
		return
	}
	s.log.Warn("plugin wrote", "line", line)
}

// close ends the goroutine and waits for it. Nobody may put any more.
func (s *lineSink) close() {
	close(s.stop)
	<-s.stopped
}

// utterance cuts what one instance writes into lines, and remembers how the
// present call's began for the message of a trap.
type utterance struct {
	line  []byte // the unfinished line
	start []byte // the first bytes written in this call
}

// write takes bytes that lie in the guest's memory.
func (u *utterance) write(b []byte, sink *lineSink) {
	u.start = append(u.start, b[:min(len(b), lineRoom-len(u.start))]...)
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		part := b
		if end >= 0 {
			part, b = b[:end], b[end+1:]
		} else {
			b = nil
		}
		u.line = append(u.line, part[:min(len(part), maxLine-len(u.line))]...)
		if end >= 0 {
			u.flush(sink)
		}
	}
}

// flush ends the unfinished line.
func (u *utterance) flush(sink *lineSink) {
	if len(u.line) > 0 {
		sink.put(u.line)
	}
	u.line = u.line[:0]
}

// said gives the first line written in this call that is not empty.
func (u *utterance) said() string {
	for line := range bytes.Lines(u.start) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return string(line)
		}
	}
	return ""
}
