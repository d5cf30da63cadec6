package admin

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// UpgradeRequest is the body of POST /v1/plugins/{name}/upgrade: go over to
// another version of a plugin. The answer is a stream of Events.
type UpgradeRequest struct {
	Path    string   `json:"path,omitempty"`    // absolute, of the new version's file
	Builtin bool     `json:"builtin,omitempty"` // instead of a file: the one that is linked into the engine
	SHA256  string   `json:"sha256,omitempty"`  // pin in hex
	Volumes []string `json:"volumes,omitempty"` // none: all of the plugin's
	Method  string   `json:"method,omitempty"`  // "": what fits; else handover, second-session or serial
	// Drain is how long requests that are outstanding may take to finish; 0: as
	// long as the engine finds good.
	Drain float64 `json:"drain_seconds,omitempty"`
	// Watch is how long the new version is watched; absent: as the configuration
	// says.
	Watch *float64 `json:"watch_seconds,omitempty"`
	Save  bool     `json:"save,omitempty"` // so that a restart keeps it
	// Shadow is how long the new version is run beside the one that runs, and
	// compared with it, before it takes over; 0: not at all.
	Shadow float64 `json:"shadow_seconds,omitempty"`
}

// RollbackRequest is the body of POST /v1/plugins/{name}/rollback: go back to
// the version before. Its fields are UpgradeRequest's.
type RollbackRequest struct {
	Volumes []string `json:"volumes,omitempty"`
	Method  string   `json:"method,omitempty"`
	Drain   float64  `json:"drain_seconds,omitempty"`
	Save    bool     `json:"save,omitempty"`
}

// Event is a line of the answer to an order: news of how it goes. The last one's
// phase is PhaseDone or PhaseFailed.
type Event struct {
	Time   time.Time `json:"time"`
	Phase  string    `json:"phase"`
	Plugin string    `json:"plugin"`
	Volume string    `json:"volume,omitempty"`        // "" if it is of all
	Method string    `json:"method,omitempty"`        // with which the volume was taken over
	Pause  float64   `json:"pause_seconds,omitempty"` // the longest that a request of the volume had to wait for that
	Shadow *Shadow   `json:"shadow,omitempty"`        // of phase shadow: what was compared
	Text   string    `json:"text,omitempty"`          // for people
	Error  string    `json:"error,omitempty"`         // of PhaseFailed: why
}

// Shadow is what running a version beside another one has compared and cost.
type Shadow struct {
	Connections int     `json:"connections"`
	Requests    uint64  `json:"requests"`      // that both have ended in the same way
	Calls       uint64  `json:"calls"`         // of the version that runs, that were followed
	Dropped     int     `json:"dropped"`       // connections that were not followed to the end
	Seconds     float64 `json:"seconds"`       // how long it took
	Spent       float64 `json:"spent_seconds"` // of reactors' time
}

// The phases that end an order.
const (
	PhaseDone   = "done"
	PhaseFailed = "failed"
)

// Refusal is why an order was not begun.
type Refusal struct {
	Status int // of HTTP, 4xx or 5xx
	Text   string
}

func (r *Refusal) Error() string { return r.Text }

// Refuse makes a Refusal of status.
func Refuse(status int, format string, args ...any) *Refusal {
	return &Refusal{status, fmt.Sprintf(format, args...)}
}

// statusOf is the HTTP status of an order that failed before anything was
// reported: what is not said to be the client's fault is the state of things.
func statusOf(err error) int {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Status
	}
	return http.StatusConflict
}

// errorAnswer is the body of an answer that is no success.
type errorAnswer struct {
	Error string `json:"error"`
}

// recovery answers POST /v1/exports/{name}/recover.
func recovery(src Source) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := src.Recover(r.Context(), r.PathValue("name")); err != nil {
			answerError(w, statusOf(err), err)
			return
		}
		answer(w, struct{}{})
	}
}
