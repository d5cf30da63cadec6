package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Rescanned answers POST /v1/volumes/{name}/rescan: what was found behind a volume.
type Rescanned struct {
	Volume string `json:"volume"`
	Before uint64 `json:"before"` // bytes
	Size   uint64 `json:"size"`   // bytes
}

// rescanTimeout bounds a look, which may take a plugin longer than other answers.
const rescanTimeout = 40 * time.Second

func rescan(src Source) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), rescanTimeout)
		defer cancel()
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(rescanTimeout + requestTimeout)); err != nil {
			answerError(w, http.StatusInternalServerError, fmt.Errorf("the connection cannot be kept: %w", err))
			return
		}
		found, err := src.Rescan(ctx, r.PathValue("name"))
		if err != nil {
			answerError(w, statusOf(err), err)
			return
		}
		answer(w, found)
	}
}

// Rescan has the engine look at what is behind a volume, and waits for what it
// finds.
func (c *Client) Rescan(ctx context.Context, volume string) (found Rescanned, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine/v1/volumes/"+url.PathEscape(volume)+"/rescan", nil)
	if err != nil {
		return found, err
	}
	resp, err := c.orders.Do(req)
	if err != nil {
		return found, c.explain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return found, c.refusal(resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxRefusal)).Decode(&found); err != nil {
		return found, fmt.Errorf("what answers at %s is no engine of this version: %w", c.path, err)
	}
	return found, nil
}
