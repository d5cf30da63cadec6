package process

import (
	"context"
	"errors"
	"strings"
	"testing"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/block"
)

// newsKeeper also takes what is told of the disk.
type newsKeeper struct {
	*keeper
	told chan block.Info
}

func (o newsKeeper) Changed(i block.Info) { o.told <- i }

func openNews(t *testing.T, l *Loaded, volume string) (guest.Link, newsKeeper, func()) {
	t.Helper()
	r, o := testReactor(t), newsKeeper{newKeeper(), make(chan block.Info, 64)}
	k, err := l.Store().NewLink(t.Context(), guest.LinkOptions{Volume: volume})
	if err != nil {
		t.Fatal(err)
	}
	on(r, func() { err = k.Start(r, o) })
	if err != nil {
		t.Fatal(err)
	}
	return k, o, func() { shut(t, r, k) }
}

// Every link of a disk that says that it has grown is told, and one that is made
// afterwards knows; the size of a slot's buffer stays.
func TestDiskGrows(t *testing.T) {
	l := load(t, testOptions(t, "grows"))
	a, oa, shutA := openNews(t, l, "v")
	defer shutA()
	b, ob, shutB := openNews(t, l, "v")
	defer shutB()
	first := a.Info()
	for i := range uint64(3) {
		if err := a.(guest.Rescanner).Rescan(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := first
		want.Size += (i + 1) << 20
		if a.Info() != want || b.Info() != want {
			t.Errorf("%+v and %+v, want %+v", a.Info(), b.Info(), want)
		}
		for _, o := range []newsKeeper{oa, ob} {
			if got := within(t, o.told, "the owner is told"); got != want {
				t.Errorf("told %+v, want %+v", got, want)
			}
		}
	}
	c, _, shutC := openNews(t, l, "v")
	defer shutC()
	if c.Info() != a.Info() {
		t.Errorf("a link made afterwards says %+v, want %+v", c.Info(), a.Info())
	}
}

// A disk that says all the time that it has changed is asked at a bounded rate, and
// one that says it without being looked at is asked, too.
func TestDiskGrowsByItself(t *testing.T) {
	l := load(t, testOptions(t, "grows by itself"))
	k, o, end := openNews(t, l, "v")
	defer end()
	for last := k.Info().Size; last < testSize+3<<20; {
		got := within(t, o.told, "the owner is told")
		if got.Size < last {
			t.Fatalf("an older answer came after a newer one: %d after %d", got.Size, last)
		}
		last = got.Size
	}
}

// What makes no sense is left aside, and so is a look that fails.
func TestDiskSaysNonsense(t *testing.T) {
	l := load(t, testOptions(t, "grows wrong"))
	k, o, end := openNews(t, l, "v")
	defer end()
	first := k.Info()
	for _, want := range []string{"blocks of 3 bytes", "identity of", "no drawer"} {
		err := k.(guest.Rescanner).Rescan(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if k.Info() != first || len(o.told) != 0 {
		t.Errorf("it is %+v now, and was %+v", k.Info(), first)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.(guest.Rescanner).Rescan(over); err == nil {
		t.Error("a look that was given up succeeds")
	}
}

// An instance tells that its process is gone though nothing was asked of it.
func TestIdleInstanceTellsItsEnd(t *testing.T) {
	c := newCaller(t, makeRegion(t, "machine"), 0, 0)
	ended := make(chan error, 2)
	c.i.OnEnd(func(err error) { ended <- err })
	c.attach()
	c.i.died(errKilled)
	if err := within(t, ended, "the end is told"); !errors.Is(err, errKilled) {
		t.Errorf("%v", err)
	}
	c.begin(1)
	if a := c.await(); a.err == nil {
		t.Error("an instance that has ended answers")
	}
	if len(ended) != 0 {
		t.Error("the end is told twice")
	}
}
