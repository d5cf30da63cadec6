package process

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	var log bytes.Buffer
	v := newVoice(newWords(slog.New(slog.NewTextHandler(&log, nil))))
	for _, part := range []string{"one\ntw", "o\n\n", strings.Repeat("x", 3*maxLine) + "\n", "panic: \x1b[2Jno\n", "goroutine 1\n", "rest"} {
		if n, err := v.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	v.close()
	got := log.String()
	for _, want := range []string{"line=one\n", "line=two\n", "line=" + strings.Repeat("x", maxLine) + "\n", `line="panic:  [2Jno"`, "line=rest\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, strings.Repeat("x", maxLine+1)) {
		t.Error("a line is longer than it may be")
	}
	if v.last() != "panic:  [2Jno" {
		t.Errorf("the last words are %q", v.last())
	}
}

func TestWordsThatAreTooMany(t *testing.T) {
	var log bytes.Buffer
	w := newWords(slog.New(slog.NewTextHandler(&log, nil)))
	for range 100 * lineBurst {
		w.line("again")
	}
	if n := strings.Count(log.String(), "\n"); n < lineBurst || n > 2*lineBurst {
		t.Errorf("%d lines in the log", n)
	}
	if w.dropped == 0 {
		t.Error("nothing was dropped")
	}
	// What is said later tells how much was dropped.
	w.lines.tokens = 1
	w.line("later")
	if !strings.Contains(log.String(), "line=later dropped_before=") {
		t.Error("nobody tells what was dropped")
	}
}
