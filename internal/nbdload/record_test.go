package nbdload

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	for i := 1; i < histSize-1; i++ {
		if v := histValue(i); histIndex(v-1) != i || histIndex(v) != i+1 {
			t.Fatalf("step %d ends at %d, which has %d and %d around it", i, v, histIndex(v-1), histIndex(v))
		}
	}
	for ns := int64(1 << histLow); ns < 1<<33; ns += ns / 7 {
		if v := histValue(histIndex(ns)); v <= ns || v-ns > ns/histSteps {
			t.Errorf("%d ns is told as %d", ns, v)
		}
	}
	if histIndex(0) != 0 || histIndex(1023) != 0 || histIndex(1<<62) != histSize-1 {
		t.Error("what is beyond the ends does not count as the nearest")
	}
}

// windowed is a record of completions at the given times, in ms.
func windowed(at ...float64) *Result {
	rec := newRecorder(time.Second)
	for _, ms := range at {
		ns := int64(ms * 1e6)
		rec.complete(ns, ns-rec.last)
	}
	return &Result{recorders: []*recorder{rec}}
}

const ms = time.Millisecond

func TestWindows(t *testing.T) {
	r := windowed(1, 2.5, 3, 103, 104, 134, 135)
	for _, w := range []struct {
		from, to, want time.Duration
	}{
		{0, 10 * ms, 100 * ms},
		{50 * ms, 60 * ms, 100 * ms}, // nothing completes in it
		{103 * ms, 110 * ms, 100 * ms},
		{104 * ms, 110 * ms, 30 * ms},
		{120 * ms, 500 * ms, 30 * ms},
		{135 * ms, 500 * ms, 1 * ms},
		{500 * ms, 600 * ms, 0},
		{-5 * ms, 2 * ms, 1500 * time.Microsecond}, // begins before the end
	} {
		if got := r.Gap(w.from, w.to); got != w.want {
			t.Errorf("the longest gap in [%v, %v) is %v, want %v", w.from, w.to, got, w.want)
		}
	}
	for _, w := range []struct {
		from, to time.Duration
		want     uint64
	}{{0, time.Hour, 7}, {0, 3 * ms, 2}, {3 * ms, 104 * ms, 2}, {200 * ms, 100 * ms, 0}, {time.Hour, 2 * time.Hour, 0}} {
		if got := r.Completions(w.from, w.to); got != w.want {
			t.Errorf("%d completions in [%v, %v), want %d", got, w.from, w.to, w.want)
		}
	}
	if l := r.Latency(100*ms, 200*ms); l.Count != 4 || l.Max != 100*ms {
		t.Errorf("%+v", l)
	}
	if l := r.Latency(200*ms, 300*ms); l != (Latency{}) {
		t.Errorf("%+v where nothing was", l)
	}
}

// TestGapsOfConnections are not hidden by each other.
func TestGapsOfConnections(t *testing.T) {
	r := windowed(1, 2, 3, 4, 5, 6, 7, 8)
	r.recorders = append(r.recorders, windowed(1, 8).recorders...)
	if g := r.Gap(0, 8*ms); g != 7*ms {
		t.Errorf("the longest gap is %v", g)
	}
}

func TestQuantiles(t *testing.T) {
	rec := newRecorder(time.Second)
	for i := range 1000 {
		rec.complete(int64(i)*1000, int64(i+1)*1e6)
	}
	l := (&Result{recorders: []*recorder{rec}}).Whole()
	for _, q := range []struct{ got, want time.Duration }{{l.P50, 501 * ms}, {l.P99, 991 * ms}, {l.P999, 1000 * ms}} {
		if q.got < q.want || q.got > q.want+q.want/histSteps {
			t.Errorf("%v is told as %v", q.want, q.got)
		}
	}
	if l.Max != time.Second || l.Count != 1000 {
		t.Errorf("%+v", l)
	}
}

// TestLate completions are kept.
func TestLate(t *testing.T) {
	rec := newRecorder(10 * ms)
	rec.complete(int64(time.Hour), 5)
	r := &Result{Elapsed: time.Hour, recorders: []*recorder{rec}}
	if r.Completions(0, 2*time.Hour) != 1 || r.Gap(0, 2*time.Hour) != time.Hour || r.Whole().Count != 1 {
		t.Errorf("%d completions, gap %v", r.Completions(0, 2*time.Hour), r.Gap(0, 2*time.Hour))
	}
}
