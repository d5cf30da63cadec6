package main

import (
	"strings"
	"testing"

	"blockengine/engine/admin"
)

// TestStatusOfVersions: each version of a plugin that has a process has a line, and
// one that no volume runs yet is said to be so.
func TestStatusOfVersions(t *testing.T) {
	version := func(generation, pid int) admin.Loaded {
		return admin.Loaded{Runtime: "process", Version: "1.0.0", Generation: generation, Process: &admin.Process{PID: pid, Sandbox: "strict"}}
	}
	next, previous := version(3, 303), version(1, 0)
	s := &admin.Status{Plugins: []admin.Plugin{
		{Name: "nbd", Loaded: version(2, 202), Next: &next, Previous: &previous},
		{Name: "null", Loaded: admin.Loaded{Runtime: "builtin"}},
	}}
	var b strings.Builder
	if err := printStatus(&b, s, s); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if strings.Count(text, "SANDBOX") != 1 {
		t.Fatalf("there is no table of processes, or more than one:\n%s", text)
	}
	for _, want := range [][]string{{"nbd", "202"}, {"nbd (next)", "303"}, {"nbd (previous)", "-"}} {
		found := false
		for line := range strings.Lines(text) {
			rest, ok := strings.CutPrefix(line, want[0]+"  ")
			found = found || ok && strings.HasPrefix(strings.TrimSpace(rest), want[1]+" ") && strings.Contains(rest, "strict")
		}
		if !found {
			t.Errorf("no line begins with %q:\n%s", want, text)
		}
	}
	if want := "plugin nbd: generation 3 (1.0.0, process) is loaded, and no volume runs it yet"; !strings.Contains(text, want) {
		t.Errorf("it does not say %q:\n%s", want, text)
	}
}
