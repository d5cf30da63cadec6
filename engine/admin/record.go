package admin

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// RecordRequest is the body of POST /v1/plugins/{name}/record: record what
// crosses the seam of a volume's connections. The answer is the recording, as it
// comes (package recording says in which form). It ends early when nobody reads
// it any more.
type RecordRequest struct {
	Volume  string  `json:"volume,omitempty"` // "" if the plugin has one only
	Seconds float64 `json:"seconds"`
	Payload bool    `json:"payload,omitempty"` // of a plugin that transforms payload, record that too
	Limit   int64   `json:"limit,omitempty"`   // bytes; 0: none
}

// recordingType is the content type of the answer.
const recordingType = "application/octet-stream"

// record streams a recording. What goes wrong before its first byte is answered
// with an error in its place; afterwards the answer is cut, and its last record is
// missing.
func record(src Source) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body RecordRequest
		if err := readBody(w, r, &body); err != nil {
			answerError(w, statusOf(err), err)
			return
		}
		out := &stream{w: w, rc: http.NewResponseController(w)}
		// The server's limits are for what is answered at once.
		if err := out.rc.SetReadDeadline(time.Time{}); err != nil {
			answerError(w, http.StatusInternalServerError, fmt.Errorf("the connection cannot be kept: %w", err))
			return
		}
		err := src.Record(r.Context(), r.PathValue("name"), body, out)
		switch {
		case err == nil:
		case out.begun:
			panic(http.ErrAbortHandler)
		default:
			if out.rc.SetWriteDeadline(time.Now().Add(requestTimeout)) == nil {
				answerError(w, statusOf(err), err)
			}
		}
	}
}

// stream writes an answer piece by piece, and lets each wait for its reader for a
// bounded time.
type stream struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	begun bool
}

// Write writes a piece and sees it off.
func (s *stream) Write(b []byte) (int, error) {
	if err := s.rc.SetWriteDeadline(time.Now().Add(requestTimeout)); err != nil {
		return 0, err
	}
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", recordingType)
	}
	n, err := s.w.Write(b)
	if err == nil {
		err = s.rc.Flush()
	}
	return n, err
}

// Record has a volume of a plugin recorded and writes the recording to w. It ends
// with ctx.
func (c *Client) Record(ctx context.Context, plugin string, r RecordRequest, w io.Writer) error {
	resp, err := c.post(ctx, plugin, "record", r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if t := resp.Header.Get("Content-Type"); t != recordingType {
		return fmt.Errorf("what answers at %s is no engine of this version: it answers with %q", c.path, t)
	}
	_, err = io.Copy(w, resp.Body)
	return err
}
