package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	clientTimeout = 10 * time.Second
	maxAnswer     = 64 << 20 // bytes
)

// Client talks to a running engine.
type Client struct {
	path string
	http http.Client
}

// NewClient makes a client for the admin socket at path. It connects when it
// is first asked for something.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return &Client{path: path, http: http.Client{
		Timeout: clientTimeout, Transport: &http.Transport{DialContext: dial}}}
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
		text, _ := io.ReadAll(io.LimitReader(body, 1<<10))
		return fmt.Errorf("the engine at %s answered %s: %s", c.path, resp.Status, strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(body).Decode(v); err != nil {
		return fmt.Errorf("what answers at %s is no engine of this version: %w", c.path, err)
	}
	return nil
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
