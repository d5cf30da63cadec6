package sandbox

import (
	"strings"
	"testing"
)

func TestProbe(t *testing.T) {
	features := Probe()
	var names []string
	for _, f := range features {
		names = append(names, f.Name)
		if f.OK != (f.Detail == "") {
			t.Errorf("%+v", f)
		}
		t.Logf("%+v", f)
	}
	if got := strings.Join(names, ","); got != "sandbox,sandbox with the host's network,cgroup cpu,cgroup memory,cgroup pids" {
		t.Errorf("features %s", got)
	}
	// What it says is what Start finds.
	w := newWorld(t)
	p, err := Start(w.spec("exit", "0"))
	if (err == nil) != features[0].OK {
		t.Errorf("it said %+v, and Start: %v", features[0], err)
	}
	if err == nil {
		<-p.Done()
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		r    refusal
		mode Mode
		want []string
	}{
		{refusal{Step: "make its view of the file system", Text: "mount_setattr /: operation not permitted", Errno: 1}, Strict,
			[]string{"failed to make its view of the file system: mount_setattr /: operation not permitted", `sandbox = "off"`}},
		{refusal{Step: "filter its system calls", Text: "x", Errno: 38}, Strict, []string{"Linux 5.14"}},
		{refusal{Step: "limit it", Text: "x", Errno: 22}, Strict, []string{"failed to limit it: x"}},
		{refusal{Step: "execute it", Text: "x", Errno: 13}, Off, []string{"/plugin cannot be executed: permission denied", "chmod 755"}},
	} {
		err := explain(&c.r, &Spec{Path: "/plugin", Mode: c.mode})
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v\nwant %q in it", err, want)
			}
		}
	}
}
