package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	maxBody   = 64 << 10 // bytes of an order
	maxUnsent = 1024     // events that wait for a client that does not read
)

// order takes an order of type R and streams what becomes of it. The order goes
// on, to its end, when its client is gone.
func order[R any](do func(plugin string, body R, report func(Event)) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body R
		if err := readBody(w, r, &body); err != nil {
			answerError(w, statusOf(err), err)
			return
		}
		plugin := r.PathValue("name")
		n := &news{plugin: plugin, more: make(chan struct{}, 1)}
		go func() { n.end(do(plugin, body, n.add)) }()
		n.send(w, r)
	}
}

// readBody reads one JSON value and wants nothing else.
func readBody(w http.ResponseWriter, r *http.Request, to any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(to)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("something follows the request")
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return Refuse(http.StatusRequestEntityTooLarge, "the request has more than %d bytes", maxBody)
	}
	return Refuse(http.StatusBadRequest, "the request is not understood: %v", err)
}

func answerError(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(errorAnswer{err.Error()}) // the client is gone, if anything
}

// news are the events of one order, between who carries it out and who sends
// them. Who carries it out never waits.
type news struct {
	plugin string
	more   chan struct{} // there is something to take; holds one

	mu     sync.Mutex // guards what follows
	unsent []Event
	last   Event // what was said of the end
	ended  bool
	err    error
}

// add notes an event. That of the end is kept back: only end knows it for sure.
func (n *news) add(e Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case e.Phase == PhaseDone || e.Phase == PhaseFailed:
		n.last = e
		return
	case len(n.unsent) == maxUnsent:
		n.unsent = n.unsent[1:]
	}
	n.unsent = append(n.unsent, e)
	n.wake()
}

// end notes how the order has ended, which is its last event.
func (n *news) end(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := Event{Time: n.last.Time, Phase: PhaseDone, Plugin: n.plugin, Volume: n.last.Volume, Text: n.last.Text}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if err != nil {
		e.Phase, e.Error = PhaseFailed, err.Error()
	}
	n.unsent = append(n.unsent, e)
	n.ended, n.err = true, err
	n.wake()
}

func (n *news) wake() {
	select {
	case n.more <- struct{}{}:
	default:
	}
}

// take gives what is new. After the end there is no more; err is its reason.
func (n *news) take() (list []Event, ended bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list, n.unsent = n.unsent, nil
	return list, n.ended, n.err
}

// send writes events as they come, each a line of JSON, until the end or until
// the client is gone. An order that ends before it has begun is answered with
// an error in the place of a stream.
func (n *news) send(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	// The server's limits are for what is answered at once.
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		answerError(w, http.StatusInternalServerError, fmt.Errorf("the connection cannot be kept: %w", err))
		return
	}
	for begun := false; ; begun = true {
		select {
		case <-n.more:
		case <-r.Context().Done():
			return
		}
		list, ended, err := n.take()
		if rc.SetWriteDeadline(time.Now().Add(requestTimeout)) != nil {
			return
		}
		if !begun {
			if ended && err != nil && len(list) == 1 {
				answerError(w, statusOf(err), err)
				return
			}
			w.Header().Set("Content-Type", "application/x-ndjson")
		}
		if writeEvents(w, rc, list) != nil || ended {
			return
		}
	}
}

func writeEvents(w http.ResponseWriter, rc *http.ResponseController, list []Event) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for i := range list {
		if err := e.Encode(&list[i]); err != nil {
			return err
		}
	}
	return rc.Flush()
}
