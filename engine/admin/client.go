package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	clientTimeout = 10 * time.Second
	maxAnswer     = 64 << 20 // bytes
	maxRefusal    = 64 << 10 // bytes
	maxEvent      = 1 << 20  // bytes of a line
)

// Client talks to a running engine.
type Client struct {
	path   string
	http   http.Client
	orders http.Client // without a limit: what they ask for takes its time
}

// NewClient makes a client for the admin socket at path. It connects when it
// is first asked for something.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	t := &http.Transport{DialContext: dial}
	return &Client{path: path, http: http.Client{Timeout: clientTimeout, Transport: t}, orders: http.Client{Transport: t}}
}

// Status asks for everything.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.get(ctx, "/v1/status", &s)
}

// Plugins asks for the loaded plugins.
func (c *Client) Plugins(ctx context.Context) ([]Plugin, error) {
	var p []Plugin
	return p, c.get(ctx, "/v1/plugins", &p)
}

func (c *Client) get(ctx context.Context, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxAnswer)
	if resp.StatusCode != http.StatusOK {
		return c.refusal(resp)
	}
	if err := json.NewDecoder(body).Decode(v); err != nil {
		return fmt.Errorf("what answers at %s is no engine of this version: %w", c.path, err)
	}
	return nil
}

// refusal makes an error of an answer that is no success: the engine's own words
// where it has given some.
func (c *Client) refusal(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	var a errorAnswer
	if json.Unmarshal(text, &a) == nil && a.Error != "" {
		return errors.New(a.Error)
	}
	return fmt.Errorf("the engine at %s answered %s: %.200s", c.path, resp.Status, strings.TrimSpace(string(text)))
}

// Upgrade orders an upgrade and gives each event of it to report, up to the
// last. It is an error if that is a failure, or does not come. The engine goes
// on when ctx ends.
func (c *Client) Upgrade(ctx context.Context, plugin string, r UpgradeRequest, report func(Event)) error {
	return c.order(ctx, plugin, "upgrade", r, report)
}

// Rollback is Upgrade for the way back.
func (c *Client) Rollback(ctx context.Context, plugin string, r RollbackRequest, report func(Event)) error {
	return c.order(ctx, plugin, "rollback", r, report)
}

func (c *Client) order(ctx context.Context, plugin, what string, body any, report func(Event)) error {
	resp, err := c.post(ctx, plugin, what, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return c.follow(resp.Body, report)
}

// post sends an order about a plugin. The answer is one of success, and its body
// the caller's to close.
func (c *Client) post(ctx context.Context, plugin, what string, body any) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		"http://engine/v1/plugins/"+url.PathEscape(plugin)+"/"+what, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.orders.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, c.refusal(resp)
	}
	return resp, nil
}

// follow reads events up to the last.
func (c *Client) follow(body io.Reader, report func(Event)) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("what answers at %s is no engine of this version: %w", c.path, err)
		}
		report(e)
		switch e.Phase {
		case PhaseDone:
			return nil
		case PhaseFailed:
			return errors.New(e.Error)
		}
	}
	err := lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("the engine at %s has not told the end: look with engine plugin list --history: %w", c.path, err)
}

// explain says what a failure to talk to the engine means.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no engine is running at %s: start one with engine run, or name another with -c FILE or --admin unix:PATH", c.path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("the admin socket %s is for the engine's own user and root: use sudo", c.path)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("the engine at %s closed the connection: it is ending, or runs as another user", c.path)
	}
	return fmt.Errorf("talk to the engine at %s: %w", c.path, err)
}

// Recover orders another try to serve an export that is a device of the engine's
// host, and waits for how it ends.
func (c *Client) Recover(ctx context.Context, export string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine/v1/exports/"+url.PathEscape(export)+"/recover", nil)
	if err != nil {
		return err
	}
	resp, err := c.orders.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.refusal(resp)
	}
	return nil
}
