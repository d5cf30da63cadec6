package vhosttest

import (
	"testing"
	"time"
)

// TestMisdeeds commits each against a stock back-end. That one is not on trial,
// and some of them are its end; but each misdeed has an outcome, and what is
// legal does no harm.
func TestMisdeeds(t *testing.T) {
	q := startQSD(t, "driver=null-co,read-zeroes=on,size=16777216", "")
	died, closed := 0, 0
	for _, m := range append(BadMessages(), BadRings()...) {
		o := Options{Socket: q.socket, Redial: 2 * time.Millisecond, Timeout: 2 * time.Second}
		out, err := m.Commit(testContext(t), o)
		select {
		case <-q.Done():
			died++
			t.Logf("%s: it died: %.200s", m.Name, q.Output())
			if m.Legal {
				t.Errorf("%s: a stock back-end dies of what should be legal", m.Name)
			}
			q.restart()
			continue
		case <-time.After(5 * time.Millisecond):
		}
		t.Logf("%s: %+v %v", m.Name, out, err)
		if m.Legal && (err != nil || out.Closed || out.Refused != nil) {
			t.Errorf("%s: legal, but %+v, %v", m.Name, out, err)
		}
		if err != nil { // it hangs
			q.restart()
		}
		if out.Closed {
			closed++
		}
	}
	t.Logf("it died of %d, closed at %d", died, closed)
	if closed == 0 {
		t.Error("no misdeed made it close a connection")
	}
}
