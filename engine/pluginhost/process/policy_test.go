package process

import (
	"strings"
	"testing"
	"time"
)

func TestPolicy(t *testing.T) {
	p, now := newPolicy(), time.Unix(1e9, 0)
	wait := func() time.Duration {
		t.Helper()
		d, err := p.admit(now)
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(d)
		return d
	}
	// Soon deaths wait, longer each time, after the first two.
	for i, want := range []time.Duration{0, 0, 50, 100, 200, 400, 800, 1600, 3200} {
		if p.died(now, 10*time.Millisecond, "killed") {
			t.Fatalf("left alone after %d deaths", i+1)
		}
		if got := wait(); got != want*time.Millisecond {
			t.Errorf("after death %d the wait is %v, not %v", i+1, got, want*time.Millisecond)
		}
	}
	if !p.died(now, 0, "panic: no") {
		t.Fatal("not left alone after 10 deaths within a minute")
	}
	if _, err := p.admit(now.Add(time.Second)); err == nil || !strings.Contains(err.Error(), "10 times") || !strings.Contains(err.Error(), "panic: no") {
		t.Errorf("while it is left alone: %v", err)
	}
	now = now.Add(p.penalty)
	if wait() != 0 {
		t.Error("it is not started after the penalty")
	}
	// One that still dies is not tried twice for free.
	p.died(now, 0, "killed")
	if wait() == 0 {
		t.Error("no wait after a death that follows the penalty")
	}
}

func TestPolicyOfDeathsAfterALife(t *testing.T) {
	p, now := newPolicy(), time.Unix(1e9, 0)
	for range 200 { // killed every second, for minutes
		now = now.Add(time.Second)
		if p.died(now, time.Second, "killed") {
			t.Fatal("left alone")
		}
		if d, err := p.admit(now); d != 0 || err != nil {
			t.Fatalf("the wait is %v, %v", d, err)
		}
	}
	// Deaths that lie apart do not add up.
	for range 50 {
		now = now.Add(10 * time.Second)
		if p.died(now, 0, "killed") {
			t.Fatal("left alone for deaths 10 s apart")
		}
		p.died(now, time.Second, "killed")
	}
}
