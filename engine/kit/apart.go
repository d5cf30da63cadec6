package kit

import (
	"context"
	"fmt"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
)

// answerWait is how long a plugin's process may take for one call. Its own
// watch-dog kills it long before.
const answerWait = 30 * time.Second

// waiting makes an instance that answers in the same call of one in another
// process, whose answers come on a reactor.
type waiting struct {
	guest.Apart
	r        *reactor.Reactor
	answered chan answer
	gone     bool
}

type answer struct {
	actions []byte
	more    bool
	err     error
}

// newInstance makes an instance that answers in the same call, in whatever runtime
// it is.
func newInstance(ctx context.Context, m guest.Module, r *reactor.Reactor) (guest.Instance, error) {
	i, err := m.NewInstance(ctx)
	if a, ok := i.(guest.Apart); ok && err == nil {
		return newWaiting(a, r)
	}
	return i, err
}

// newWaiting attaches an instance to r, which runs.
func newWaiting(i guest.Apart, r *reactor.Reactor) (*waiting, error) {
	w := &waiting{Apart: i, r: r, answered: make(chan answer, 1)}
	var err error
	r.Do(func() {
		err = i.Attach(r, func() {
			actions, more, err := i.Answer()
			w.answered <- answer{actions, more, err}
		})
	})
	if err != nil {
		r.Do(i.Close)
		return nil, err
	}
	return w, nil
}

// Call hands in n bytes and waits for the answer.
func (w *waiting) Call(n int, budget int64) (actions []byte, more bool, err error) {
	if !w.r.Do(func() { w.Begin(n, budget) }) {
		return nil, false, fmt.Errorf("the reactor has ended")
	}
	select {
	case a := <-w.answered:
		return a.actions, a.more, a.err
	case <-time.After(answerWait):
		return nil, false, &guest.Trap{Cause: "hang", Err: fmt.Errorf("no answer within %v", answerWait)}
	}
}

// Close releases the instance, once.
func (w *waiting) Close() {
	if !w.gone {
		w.gone = true
		w.r.Do(w.Apart.Close)
	}
}
