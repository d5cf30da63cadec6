package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

// script is a Source whose orders do as the test says.
type script struct {
	fixed
	upgrade func(plugin string, r UpgradeRequest, report func(Event)) error
}

func (s script) Upgrade(plugin string, r UpgradeRequest, report func(Event)) error {
	return s.upgrade(plugin, r, report)
}

func (s script) Rollback(plugin string, r RollbackRequest, report func(Event)) error {
	return s.upgrade(plugin, UpgradeRequest{Volumes: r.Volumes, Method: r.Method, Drain: r.Drain, Save: r.Save}, report)
}

func ev(phase, text string) Event {
	return Event{Time: time.Unix(1, 0).UTC(), Phase: phase, Plugin: "p", Text: text}
}

// An order arrives whole, and its events come as they happen and whole.
func TestOrderTravelsWhole(t *testing.T) {
	watch := 0.0
	want := UpgradeRequest{Path: "/a b.wasm", SHA256: "ab", Volumes: []string{"v", "w"}, Method: "serial", Drain: 1.5, Watch: &watch, Save: true}
	var got UpgradeRequest
	var name string
	seen := make(chan Event)
	c := NewClient(serve(t, script{upgrade: func(plugin string, r UpgradeRequest, report func(Event)) error {
		name, got = plugin, r
		report(ev("load", "<1>"))
		<-seen // it has come while the order is under way
		report(Event{Time: time.Unix(1, 0).UTC(), Phase: "takeover", Plugin: "p", Volume: "v", Method: "handover", Pause: 0.001})
		<-seen
		report(ev(PhaseDone, "p runs 2"))
		return nil
	}}))
	var events []Event
	err := c.Upgrade(testContext(t), "p.1", want, func(e Event) {
		events = append(events, e)
		if e.Phase != PhaseDone {
			seen <- e
		}
	})
	if err != nil || name != "p.1" || !reflect.DeepEqual(got, want) {
		t.Errorf("%v: %q got %+v, want %+v", err, name, got, want)
	}
	wantEvents := []Event{ev("load", "<1>"),
		{Time: time.Unix(1, 0).UTC(), Phase: "takeover", Plugin: "p", Volume: "v", Method: "handover", Pause: 0.001},
		{Time: time.Unix(1, 0).UTC(), Phase: PhaseDone, Plugin: "p.1", Text: "p runs 2"}}
	if !reflect.DeepEqual(events, wantEvents) {
		t.Errorf("got  %+v\nwant %+v", events, wantEvents)
	}
}

func TestRollbackTravelsWhole(t *testing.T) {
	var got UpgradeRequest
	c := NewClient(serve(t, script{upgrade: func(_ string, r UpgradeRequest, _ func(Event)) error {
		got = r
		return nil
	}}))
	want := UpgradeRequest{Volumes: []string{"v"}, Method: "handover", Drain: 2, Save: true}
	var last Event
	err := c.Rollback(testContext(t), "p", RollbackRequest{[]string{"v"}, "handover", 2, true}, func(e Event) { last = e })
	if err != nil || !reflect.DeepEqual(got, want) || last.Phase != PhaseDone || last.Time.IsZero() {
		t.Errorf("%v: %+v, %+v", err, got, last)
	}
}

// The end says what has become of the order, whatever was reported of it.
func TestOrderFails(t *testing.T) {
	for _, reported := range []string{PhaseDone, PhaseFailed, ""} {
		c := NewClient(serve(t, script{upgrade: func(_ string, _ UpgradeRequest, report func(Event)) error {
			report(ev("load", ""))
			if reported != "" {
				report(ev(reported, "the end"))
			}
			return errors.New("it traps & loops")
		}}))
		var events []Event
		err := c.Upgrade(testContext(t), "p", UpgradeRequest{}, func(e Event) { events = append(events, e) })
		if err == nil || err.Error() != "it traps & loops" {
			t.Errorf("got %v", err)
		}
		if n := len(events); n != 2 || events[1].Phase != PhaseFailed || events[1].Error != "it traps & loops" {
			t.Errorf("got %+v", events)
		}
	}
}

// What is refused before it has begun is an error of HTTP, in the words of the
// engine.
func TestOrderRefused(t *testing.T) {
	for _, tc := range []struct {
		err    error
		status int
	}{
		{Refuse(http.StatusNotFound, "there is no plugin %q", "p"), 404},
		{errors.Join(Refuse(http.StatusBadRequest, "bad")), 400},
		{errors.New("another upgrade is under way"), 409},
	} {
		path := serve(t, script{upgrade: func(_ string, _ UpgradeRequest, report func(Event)) error {
			report(ev(PhaseFailed, "said twice"))
			return tc.err
		}})
		err := NewClient(path).Upgrade(testContext(t), "p", UpgradeRequest{}, func(e Event) { t.Errorf("event %+v", e) })
		if err == nil || err.Error() != tc.err.Error() {
			t.Errorf("got %v, want %v", err, tc.err)
		}
		if status, _ := post(t, path, "/v1/plugins/p/upgrade", "{}"); status != tc.status {
			t.Errorf("%v: status %d, want %d", tc.err, status, tc.status)
		}
	}
}

// post sends a body as it is and gives the answer.
func post(t *testing.T, path, url, body string) (status int, answer string) {
	t.Helper()
	c := NewClient(path)
	resp, err := c.http.Post("http://engine"+url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestOrderBodies(t *testing.T) {
	path := serve(t, script{upgrade: func(string, UpgradeRequest, func(Event)) error { return nil }})
	for _, tc := range []struct {
		body   string
		status int
		want   string
	}{
		{`{}`, 200, `"phase":"done"`},
		{``, 400, "EOF"},
		{`{"pathh":"/x"}`, 400, `unknown field \"pathh\"`},
		{`{"path":5}`, 400, "cannot unmarshal"},
		{`{} {}`, 400, "something follows"},
		{`{"path":"` + strings.Repeat("x", maxBody) + `"}`, 413, "more than 65536 bytes"},
		{`{"path":"/x"`, 400, "unexpected EOF"},
	} {
		for _, what := range []string{"upgrade", "rollback"} {
			body := tc.body
			if what == "rollback" {
				body = strings.ReplaceAll(body, `"path":`, `"method":`)
			}
			status, answer := post(t, path, "/v1/plugins/p/"+what, body)
			if status != tc.status || !strings.Contains(answer, tc.want) {
				t.Errorf("%s %.40s: %d %s, want %d %s", what, body, status, answer, tc.status, tc.want)
			}
		}
	}
	if status, _ := post(t, path, "/v1/plugins/p/destroy", "{}"); status != 404 {
		t.Errorf("an unknown order: status %d", status)
	}
	if status, _ := post(t, path, "/v1/status", "{}"); status != 405 {
		t.Errorf("an order to tell the status: status %d", status)
	}
}

// An order goes on when its client is gone.
func TestOrderOutlivesItsClient(t *testing.T) {
	gone, finished := make(chan struct{}), make(chan struct{})
	c := NewClient(serve(t, script{upgrade: func(_ string, _ UpgradeRequest, report func(Event)) error {
		defer close(finished)
		report(ev("load", ""))
		<-gone
		for range maxUnsent { // to nobody
			report(ev("verify", ""))
		}
		return nil
	}}))
	ctx, leave := context.WithCancel(testContext(t))
	err := c.Upgrade(ctx, "p", UpgradeRequest{}, func(Event) { leave() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(gone)
	<-finished
}

// A client that is there and does not read holds nothing up, and costs no more
// than so much.
func TestOrderDoesNotWaitForItsClient(t *testing.T) {
	finished := make(chan struct{})
	path := serve(t, script{upgrade: func(_ string, _ UpgradeRequest, report func(Event)) error {
		defer close(finished)
		text := strings.Repeat("x", 64<<10)
		for range 1000 { // 64 MB: no socket holds that
			report(ev("load", text))
		}
		return nil
	}})
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /v1/plugins/p/upgrade HTTP/1.1\r\nHost: engine\r\nContent-Length: 2\r\n\r\n{}")
	if err != nil {
		t.Fatal(err)
	}
	<-finished // while nothing was read
}

func TestUnsentEventsAreBounded(t *testing.T) {
	n := &news{plugin: "p", more: make(chan struct{}, 1)}
	for range 3 * maxUnsent {
		n.add(ev("load", ""))
	}
	n.end(errors.New("no"))
	list, ended, err := n.take()
	if len(list) != maxUnsent+1 || list[maxUnsent].Error != "no" || !ended || err == nil {
		t.Errorf("%d events, %v, %v", len(list), ended, err)
	}
}

// deadlines notes what limits a handler sets.
type deadlines struct {
	http.ResponseWriter
	read  []time.Time
	write int
}

func (d *deadlines) SetReadDeadline(t time.Time) error { d.read = append(d.read, t); return nil }
func (d *deadlines) SetWriteDeadline(time.Time) error  { d.write++; return nil }
func (d *deadlines) Unwrap() http.ResponseWriter       { return d.ResponseWriter }

// The limits that are for short answers are lifted: an order may take longer.
func TestOrderIsNotCutByTheServersLimits(t *testing.T) {
	d := &deadlines{}
	step := make(chan struct{})
	handler := order(func(_ string, _ UpgradeRequest, report func(Event)) error {
		report(ev("load", ""))
		<-step
		return nil
	})
	l, err := Listen(t.TempDir() + "/s")
	if err != nil {
		t.Fatal(err)
	}
	srv := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.ResponseWriter = w
		handler(d, r)
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	c := NewClient(l.Addr().String())
	if c.orders.Timeout != 0 {
		t.Errorf("the client gives up after %v", c.orders.Timeout)
	}
	err = c.Upgrade(testContext(t), "p", UpgradeRequest{}, func(e Event) {
		if e.Phase == "load" {
			close(step)
		}
	})
	if err != nil {
		t.Error(err)
	}
	if len(d.read) != 1 || !d.read[0].IsZero() || d.write != 2 {
		t.Errorf("limits on reading %v, %d on writing", d.read, d.write)
	}
}

// A stream that ends too soon, or is none, is an error.
func TestClientOfBrokenStreams(t *testing.T) {
	line, err := json.Marshal(ev("load", ""))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"":                            "has not told the end",
		string(line) + "\n":           "has not told the end",
		"hello\n":                     "no engine of this version",
		strings.Repeat("x", maxEvent): "token too long",
	} {
		err := NewClient("/x").follow(strings.NewReader(text), func(Event) {})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %s", text, err, want)
		}
	}
}

// Orders to something else that answers are no orders.
func TestClientOfAnotherServer(t *testing.T) {
	path := answering(t, t.TempDir(), "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nno <such>")
	err := NewClient(path).Upgrade(testContext(t), "p", UpgradeRequest{}, func(Event) {})
	if err == nil || !strings.Contains(err.Error(), "answered 404 Not Found: no <such>") {
		t.Errorf("got %v", err)
	}
	if !bytes.Contains([]byte(err.Error()), []byte(path)) {
		t.Errorf("%v does not say who", err)
	}
}

func (s script) Recover(context.Context, string) error             { return nil }
func (s script) Rescan(context.Context, string) (Rescanned, error) { return Rescanned{}, nil }
