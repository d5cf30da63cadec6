package ublk

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func journalAt(t testing.TB, path string, slots int, l leftBehind) *journal {
	t.Helper()
	j, err := newJournal(path, slots, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.close)
	return j
}

func left(t testing.TB, path string) leftBehind {
	t.Helper()
	l, err := readJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What is in flight when an engine dies is owed by the next one, and the one
// after it, until it has been written again.
func TestJournalOverGenerations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.inflight")
	if l := left(t, path); len(l.spans) != 0 || l.stage != settledDown {
		t.Fatalf("without a file: %+v", l)
	}
	a := journalAt(t, path, 4, leftBehind{})
	a.begin(0, span{0, 4096})
	a.begin(1, span{8192, 4096})
	a.begin(3, span{1 << 40, 512})
	a.end(0)
	if a.again(span{8192, 4096}) {
		t.Error("what this engine writes is not owed")
	}
	l := left(t, path) // it dies here
	if want := []span{{8192, 4096}, {1 << 40, 512}}; !slices.Equal(l.spans, want) {
		t.Fatalf("left: %v, want %v", l.spans, want)
	}
	b := journalAt(t, path, 2, l)
	for s, want := range map[span]bool{
		{8192, 4096}: true, {8191, 2}: true, {12287, 1}: true, {4096, 4096}: false, {12288, 1 << 30}: false,
		{0, 1 << 50}: true, {1<<40 + 511, 1}: true, {1<<40 + 512, 1}: false,
	} {
		if b.again(s) != want {
			t.Errorf("%v: %v", s, !want)
		}
	}
	b.settled(span{8192, 4095}) // not all of it
	b.settled(span{8193, 4096})
	if !b.again(span{8192, 1}) {
		t.Error("a part of it was enough")
	}
	b.begin(1, span{77824, 4096})
	b.settled(span{0, 1 << 20})
	if b.again(span{8192, 4096}) || !b.again(span{1 << 40, 1}) {
		t.Error("it is owed though it was written, or the other one is not")
	}
	c := journalAt(t, path, 1, left(t, path))
	if !c.again(span{77824, 1}) || !c.again(span{1 << 40, 1}) || c.again(span{8192, 1}) {
		t.Error("the third engine owes something else")
	}
	c.settled(span{0, ^uint64(0)})
	if c.left.Load() != 0 || c.again(span{0, ^uint64(0)}) {
		t.Error("it owes though all was written")
	}
}

func TestJournalStage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.inflight")
	j := journalAt(t, path, 1, leftBehind{})
	j.at(fetching)
	if left(t, path).stage != fetching {
		t.Error("nobody knows that a device was being taken over")
	}
	j = journalAt(t, path, 1, left(t, path))
	if left(t, path).stage != fetching {
		t.Error("the next one forgets it")
	}
	j.at(settledDown)
	if left(t, path).stage != settledDown {
		t.Error("it is known for ever")
	}
}

func TestJournalTooManySpans(t *testing.T) {
	spans := make([]span, maxOwed+1)
	for i := range spans {
		spans[i] = span{uint64(i+5) * 4096, 4096}
	}
	if got := fewer(spans); len(got) != 1 || got[0] != (span{5 * 4096, uint64(len(spans)) * 4096}) {
		t.Errorf("%v", got)
	}
	if got := fewer(spans[:9]); len(got) != 9 {
		t.Errorf("%d of 9", len(got))
	}
}

// A file that is damaged is refused and never believed.
func FuzzJournal(f *testing.F) {
	path := filepath.Join(f.TempDir(), "x")
	j, err := newJournal(path, 2, leftBehind{spans: []span{{1, 2}}})
	if err != nil {
		f.Fatal(err)
	}
	j.begin(1, span{3, 4})
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	j.close()
	f.Add(good)
	f.Add(good[:40])
	f.Add([]byte{})
	f.Add(append(bytes.Clone(good[:8]), bytes.Repeat([]byte{0xff}, 64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := readJournal(path)
		if err != nil {
			return
		}
		if binary.NativeEndian.Uint64(b) != journalMagic || len(l.spans) > len(b)/16 {
			t.Fatalf("%d spans of %d bytes", len(l.spans), len(b))
		}
		j, err := newJournal(path, 3, l)
		if err != nil {
			t.Fatal(err)
		}
		defer j.close()
		if again, err := readJournal(path); err != nil || !slices.Equal(again.spans, l.spans) {
			t.Fatalf("%v, %v, want %v", again.spans, err, l.spans)
		}
		for _, s := range l.spans {
			if !j.again(s) {
				t.Fatalf("%v is not owed", s)
			}
		}
	})
}
