package session

import "time"

// rate bounds how often something happens: once every so long on average, and
// burst times at once. It is the generic cell rate algorithm: due is when the
// next one would be due if all came evenly.
type rate struct{ due int64 }

// ok reports whether it may happen at now (ns), and counts it if so.
func (r *rate) ok(now int64, every time.Duration, burst int64) bool {
	r.due = max(r.due, now)
	if r.due-now >= burst*int64(every) {
		return false
	}
	r.due += int64(every)
	return true
}
