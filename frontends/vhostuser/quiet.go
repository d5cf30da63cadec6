package vhostuser

import (
	"log/slog"
	"sync"
	"time"
)

// quietLines is how many lines a second front-ends may cause.
const quietLines = 10

// quiet logs what front-ends cause, so that one that redials for ever, and
// breaks the protocol each time, cannot flood the log.
type quiet struct {
	log *slog.Logger

	mu     sync.Mutex // guards what follows; nothing is called while it is held
	second int64
	lines  int
	lost   int // since the last line
}

func (q *quiet) warn(msg string, args ...any) {
	ok, lost := q.admit(time.Now().Unix())
	if !ok {
		return
	}
	if lost > 0 {
		args = append(args, "lines_suppressed", lost)
	}
	q.log.Warn(msg, args...)
}

func (q *quiet) admit(second int64) (ok bool, lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if second != q.second {
		q.second, q.lines = second, 0
	}
	if q.lines == quietLines {
		q.lost++
		return false, 0
	}
	q.lines++
	lost, q.lost = q.lost, 0
	return true, lost
}
