package nbd

import (
	"log/slog"
	"sync"
	"time"
)

// quietLines is how many lines a second strangers may cause.
const quietLines = 10

// quiet logs what strangers cause, and so must not be able to flood the log.
type quiet struct {
	log *slog.Logger

	mu         sync.Mutex // guards what follows; nothing is called while it is held
	second     int64
	lines      int
	suppressed int
}

// warn logs a line, unless too many have been logged in this second.
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

func (q *quiet) admit(now int64) (ok bool, lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now != q.second {
		q.second, q.lines = now, 0
	}
	if q.lines >= quietLines {
		q.suppressed++
		return false, 0
	}
	q.lines++
	lost, q.suppressed = q.suppressed, 0
	return true, lost
}
