package kit

import (
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
	answered chan struct{}
	gone     bool
}

// newWaiting attaches an instance to r, which runs.
func newWaiting(i guest.Apart, r *reactor.Reactor) (*waiting, error) {
	w := &waiting{Apart: i, r: r, answered: make(chan struct{}, 1)}
	var err error
	r.Do(func() { err = i.Attach(r, func() { w.answered <- struct{}{} }) })
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
	case <-w.answered:
	case <-time.After(answerWait):
		return nil, false, &guest.Trap{Cause: "hang", Err: fmt.Errorf("no answer within %v", answerWait)}
	}
	w.r.Do(func() { actions, more, err = w.Answer() })
	return actions, more, err
}

// Close releases the instance, once.
func (w *waiting) Close() {
	if !w.gone {
		w.gone = true
		w.r.Do(w.Apart.Close)
	}
}
