package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"blockengine/engine/admin"
)

func (f *fakeEngine) Record(context.Context, string, admin.RecordRequest, io.Writer) error {
	return nil
}

// busy has a client write and read until end is called, which tells whether
// anything failed.
func (s *site) busy(volume string) (end func()) {
	c := s.client(volume)
	var stop atomic.Bool
	done := make(chan error, 1)
	go func() {
		want := bytes.Repeat([]byte("guestdata"), 455) // 4095 bytes
		want = append(want, '!')
		for n := uint64(0); !stop.Load(); n++ {
			at := n % 64 * 4096
			if err := c.Write(at, want, 0); err != nil {
				done <- err
				return
			}
			if got, err := c.Read(at, len(want), 0); err != nil || !bytes.Equal(got, want) {
				done <- err
				return
			}
		}
		done <- nil
	}()
	return func() {
		s.t.Helper()
		stop.Store(true)
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

// A recording of a volume in use is for its owner alone, holds no guest's data,
// and gives no difference when the same code, in any runtime, is handed it.
func TestRecordAndReplay(t *testing.T) {
	t.Parallel()
	s, _ := upgradable(t)
	r := s.run()
	r.until("ready")
	end := s.busy("far")
	text := s.order("record", "nbd", "--for", "500ms", "-o", s.path("far.rec"))
	if !strings.Contains(text, "connections of volume far on nbd 1.0.0") || !strings.Contains(text, "its time is over") {
		t.Errorf("got %s", text)
	}
	again := s.do("plugin", "record", "nbd", "--for", "1s", "-o", s.path("far.rec"))
	if again.status != exitFailed || !strings.Contains(again.stderr, "is there already") {
		t.Errorf("%+v", again)
	}
	end()
	file, err := os.ReadFile(s.path("far.rec"))
	info, _ := os.Stat(s.path("far.rec"))
	if err != nil || info.Mode() != 0o600 || bytes.Contains(file, []byte("guestdata")) {
		t.Errorf("%v, mode %v, guest's data in it: %v", err, info.Mode(), bytes.Contains(file, []byte("guestdata")))
	}
	for _, version := range []string{"builtin:nbd", s.path("new.wasm")} {
		got := s.do("plugin", "replay", s.path("far.rec"), version, "--json")
		var res struct {
			Requests uint64 `json:"requests"`
			Whole    bool   `json:"whole"`
		}
		if err := json.Unmarshal([]byte(got.stdout), &res); err != nil || got.status != exitDone || res.Requests == 0 || !res.Whole {
			t.Errorf("%s: %+v, %v", version, got, err)
		}
	}
	if got := s.do("plugin", "replay", s.path("far.rec"), "builtin:nbd", "--exact", "--diff"); got.status != exitDone ||
		!strings.Contains(got.stdout, "no difference") {
		t.Errorf("%+v", got)
	}
	r.stop()
}

func TestRefusedRecordings(t *testing.T) {
	s, _ := upgradable(t)
	s.write("text", "hello, this is no recording at all")
	r := s.run()
	r.until("ready")
	for args, want := range map[string]struct {
		status int
		text   string
	}{
		"record nbd":                                    {exitWrong, "with -o"},
		"record nbd -o x.rec --for 0s":                  {exitWrong, "out of range"},
		"record nbd -o x.rec --limit 5":                 {exitWrong, "--limit"},
		"record nbd -o x.rec --volume none --for 100ms": {exitFailed, `no volume "none" stands on plugin "nbd"`},
		"record ndb -o x.rec --for 100ms":               {exitFailed, `did you mean "nbd"`},
		"replay text builtin:nbd":                       {exitFailed, "no recording"},
		"replay text builtin:iscsi":                     {exitFailed, "there is builtin:nbd"},
		"replay text":                                   {exitWrong, "two arguments"},
	} {
		got := s.do(append([]string{"plugin"}, strings.Fields(args)...)...)
		if got.status != want.status || !strings.Contains(got.stderr, want.text) {
			t.Errorf("%s: %+v", args, got)
		}
		if _, err := os.Stat(s.path("x.rec")); err == nil {
			t.Errorf("%s: a file is left", args)
		}
	}
	r.stop()
}

// An upgrade with a shadow tells what was compared, to people and programs.
func TestUpgradeWithShadow(t *testing.T) {
	s, _ := upgradable(t)
	r := s.run()
	r.until("ready")
	end := s.busy("far")
	text := s.order("upgrade", "nbd", "new.wasm", "--shadow", "500ms", "--watch", "100ms")
	if !strings.Contains(text, "\nshadow ") || !strings.Contains(text, "none differs") || !strings.Contains(text, "generation 2 (1.0.0) runs") {
		t.Errorf("got\n%s", text)
	}
	if p := s.plugin(); !strings.Contains(p.History[len(p.History)-1].Shadow, "none differs") {
		t.Errorf("%+v", p.History)
	}
	text = s.order("upgrade", "nbd", "--builtin", "--shadow", "300ms", "--watch", "0s", "--json")
	figures := false
	for line := range strings.Lines(text) {
		var e admin.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		figures = figures || e.Phase == "shadow" && e.Volume == "far" && e.Shadow != nil && e.Shadow.Requests > 0 && e.Shadow.Spent > 0
	}
	if !figures {
		t.Errorf("no figures in\n%s", text)
	}
	end()
	r.stop()
}
