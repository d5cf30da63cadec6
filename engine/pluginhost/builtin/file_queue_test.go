package builtin

import (
	"testing"

	"blockengine/sdk/block"
)

// TestTake: a few quick requests are one worker's, many are shared out, and what may
// wait for the disk is taken alone. Nobody takes more than there is.
func TestTake(t *testing.T) {
	quick, slow := &block.Request{Op: block.OpWrite, Length: 4096}, &block.Request{Op: block.OpRead, Length: 4096}
	for _, c := range []struct {
		name  string
		batch []*block.Request
		idle  int // others
		want  int
	}{
		{"one", []*block.Request{quick}, 3, 1},
		{"a few", repeat(quick, minRun), 3, minRun},
		{"many, and nobody else is free", repeat(quick, 40), 0, maxRun},
		{"many, and others are free", repeat(quick, 40), 3, 10},
		{"one that waits", repeat(slow, 5), 0, 1},
		{"quick ones before one that waits", append(repeat(quick, 2), slow), 0, 2},
	} {
		var q fileQueue
		q.init(0, nil)
		ch := &fileChannel{dev: &fileDevice{}}
		var jobs []job
		for _, r := range c.batch {
			jobs = append(jobs, job{r: r, ch: ch})
		}
		q.push(jobs)
		q.idle = c.idle
		into := make([]job, maxRun)
		n := q.take(into)
		if n != c.want {
			t.Errorf("%s: %d taken of %d, want %d", c.name, n, len(c.batch), c.want)
		}
		for i, j := range into[:n] {
			if j.r != c.batch[i] {
				t.Errorf("%s: the request at %d is another one", c.name, i)
			}
		}
	}
}

func repeat(r *block.Request, n int) (list []*block.Request) {
	for range n {
		list = append(list, r)
	}
	return list
}
