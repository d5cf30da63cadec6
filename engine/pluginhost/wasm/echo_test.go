package wasm

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/wasm/testdata/echo/proto"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

func TestGoGuestManifest(t *testing.T) {
	m := loadEcho(t)
	got, want := m.Manifest(), guest.Linked(proto.Plugin{}).Manifest()
	if got.Name != want.Name || got.Version != want.Version || got.ABI != want.ABI ||
		got.Payload != want.Payload || !slices.Equal(got.Options, want.Options) {
		t.Errorf("manifest from wasm %+v, linked %+v", got, want)
	}
	if m.Runtime() != "wasm" || len(m.Hash()) != 64 {
		t.Errorf("runtime %q hash %q", m.Runtime(), m.Hash())
	}
}

// script is a life of a connection, as events; each step's actions are
// compared between the runtimes.
var script = []func(b []byte) int{
	func(b []byte) int { return opened(b, "size=1\x00") },
	func(b []byte) int { return requests(b, block.OpRead, 1) },
	func(b []byte) int { return requests(b, block.OpWrite, 300) },
	func(b []byte) int { return requests(b, block.OpWrite, 1000) }, // more actions than the buffer holds
	func(b []byte) int {
		return putRecord(b, abi.EvReceived, abi.Received{Len: 20}, "\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02half")
	},
	func(b []byte) int { return putRecord(b, abi.EvTimer, abi.Timer{ID: 3}, "") },
	func(b []byte) int { return putRecord(b, abi.EvIdle, abi.Header{}, "") },
	func(b []byte) int { return putRecord(b, 999, abi.Header{}, "") },
	func(b []byte) int { return putRecord(b, abi.EvGoodbye, abi.Header{}, "") },
	func(b []byte) int { copy(b, "\xff\xff\xff\xff\x03\x00\x00\x00"); return 8 },
}

// TestGoGuestBehavesAsLinked runs the same plugin in both runtimes and expects
// the same bytes.
func TestGoGuestBehavesAsLinked(t *testing.T) {
	inside := newInstance(t, loadEcho(t))
	linked := newInstance(t, guest.Linked(proto.Plugin{}))
	for step, put := range script {
		n, m := put(inside.Input()), put(linked.Input())
		for {
			a, moreA, errA := inside.Call(n, guest.BudgetIdle)
			b, moreB, errB := linked.Call(m, guest.BudgetIdle)
			if errA != nil || errB != nil {
				t.Fatalf("step %d: wasm %v, linked %v", step, errA, errB)
			}
			if moreA != moreB || !bytes.Equal(a, b) {
				t.Fatalf("step %d: wasm %v %x\nlinked %v %x", step, moreA, a, moreB, b)
			}
			if !moreA {
				break
			}
			n, m = 0, 0
		}
	}
}

// TestGoGuestCollects makes garbage several times the memory cap; idle events
// keep it alive.
func TestGoGuestCollects(t *testing.T) {
	i := newInstance(t, loadEcho(t))
	for round := range 100 {
		n := putRecord(i.Input(), abi.EvTimer, abi.Timer{ID: 1}, "")
		if _, _, err := i.Call(n, guest.BudgetLogin); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		n = putRecord(i.Input(), abi.EvIdle, abi.Header{}, "")
		if _, _, err := i.Call(n, guest.BudgetIdle); err != nil {
			t.Fatalf("round %d, idle: %v", round, err)
		}
	}
}

// TestGoGuestCollectsAtItsLimit: without idle events the environment's memory
// limit makes the guest collect before its memory is full.
func TestGoGuestCollectsAtItsLimit(t *testing.T) {
	i := newInstance(t, loadEcho(t))
	for round := range 100 {
		n := putRecord(i.Input(), abi.EvTimer, abi.Timer{ID: 1}, "")
		if _, _, err := i.Call(n, guest.BudgetLogin); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

func TestGoGuestMisbehaves(t *testing.T) {
	m := loadEcho(t)
	beside := newInstance(t, m)
	for _, c := range []struct {
		mode, cause, words string
		budget             int64
	}{
		{"panic", "unreachable", "told to panic", guest.BudgetLogin},
		{"spin", "budget", "budget", guest.BudgetCall},
		{"hoard", "unreachable", "out of memory", guest.BudgetInit},
	} {
		t.Run(c.mode, func(t *testing.T) {
			i := newInstance(t, m)
			if _, _, err := i.Call(opened(i.Input(), "mode="+c.mode+"\x00"), guest.BudgetLogin); err != nil {
				t.Fatal(err)
			}
			_, _, err := i.Call(requests(i.Input(), block.OpRead, 1), c.budget)
			wantTrap(t, err, c.cause)
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v does not say %q", err, c.words)
			}
			if _, _, again := i.Call(0, guest.BudgetCall); again != err {
				t.Errorf("a call after the trap gives %v", again)
			}
			if _, _, err := beside.Call(requests(beside.Input(), block.OpRead, 16), guest.BudgetCall); err != nil {
				t.Errorf("the instance beside: %v", err)
			}
		})
	}
}

// TestGoGuestSteadyStateStaysInBudget: batches, with the budget of the data
// path and what a byte of events adds.
func TestGoGuestSteadyStateStaysInBudget(t *testing.T) {
	i := newInstance(t, loadEcho(t))
	for round := range 2000 {
		n := requests(i.Input(), block.OpWrite, 256)
		if _, _, err := i.Call(n, guest.BudgetCall); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

func TestCallAllocatesNothing(t *testing.T) {
	i := newInstance(t, loadEcho(t))
	n := requests(i.Input(), block.OpWrite, 16)
	got := testing.AllocsPerRun(1000, func() {
		if _, _, err := i.Call(n, guest.BudgetCall); err != nil {
			t.Error(err)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations in a call", got)
	}
}

func wantTrap(tb testing.TB, err error, cause string) {
	tb.Helper()
	var trap *guest.Trap
	if !errors.As(err, &trap) {
		tb.Fatalf("no trap: %v", err)
	}
	if trap.Cause != cause {
		tb.Errorf("cause %q, want %q: %v", trap.Cause, cause, err)
	}
}

// TestInstancesAreAlike: nothing that an instance can see tells it from
// another one.
func TestInstancesAreAlike(t *testing.T) {
	m := loadEcho(t)
	a, err := m.newInstance(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := m.newInstance(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	x, y := a.mod.Memory(), b.mod.Memory()
	if x.Size() != y.Size() {
		t.Fatalf("memory of %d and %d bytes after initialisation", x.Size(), y.Size())
	}
	p, _ := x.Read(0, x.Size())
	q, _ := y.Read(0, y.Size())
	if !bytes.Equal(p, q) {
		t.Error("the memories differ after initialisation")
	}
}
