package admin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
)

func (fixed) Record(context.Context, string, RecordRequest, io.Writer) error  { return nil }
func (script) Record(context.Context, string, RecordRequest, io.Writer) error { return nil }

// recorder is a source whose recordings the test makes.
type recorder struct {
	fixed
	do func(ctx context.Context, plugin string, r RecordRequest, w io.Writer) error
}

func (r recorder) Record(ctx context.Context, plugin string, q RecordRequest, w io.Writer) error {
	return r.do(ctx, plugin, q, w)
}

func recorded(t *testing.T, do func(context.Context, string, RecordRequest, io.Writer) error) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(l, recorder{do: do}, slog.New(slog.DiscardHandler))
	defer s.Close()
	var b bytes.Buffer
	err = NewClient(path).Record(t.Context(), "a/b", RecordRequest{Volume: "v", Seconds: 2, Payload: true, Limit: 5}, &b)
	return b.String(), err
}

func TestRecordingIsStreamed(t *testing.T) {
	got, err := recorded(t, func(_ context.Context, plugin string, r RecordRequest, w io.Writer) error {
		if plugin != "a/b" || r != (RecordRequest{Volume: "v", Seconds: 2, Payload: true, Limit: 5}) {
			return errors.New("another order")
		}
		for _, piece := range []string{"one", "two"} {
			if _, err := io.WriteString(w, piece); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || got != "onetwo" {
		t.Errorf("%q, %v", got, err)
	}
}

// What goes wrong first is told in words, what goes wrong later cuts the answer.
func TestRecordingThatFails(t *testing.T) {
	got, err := recorded(t, func(context.Context, string, RecordRequest, io.Writer) error { return Refuse(400, "no such thing") })
	if got != "" || err == nil || err.Error() != "no such thing" {
		t.Errorf("%q, %v", got, err)
	}
	got, err = recorded(t, func(_ context.Context, _ string, _ RecordRequest, w io.Writer) error {
		_, _ = io.WriteString(w, "a part")
		return errors.New("and no more")
	})
	if got != "a part" || err == nil || !strings.Contains(err.Error(), "EOF") {
		t.Errorf("%q, %v", got, err)
	}
}
