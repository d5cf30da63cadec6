package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program builds one of the project's plugins as a program.
func program(t *testing.T, pkg string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", file, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("build %s: %w\n%s", pkg, err, out))
	}
	return file
}

// A recording is handed to a program as to any other version: in a process, in a
// sandbox, with the same outcome.
func TestReplayOfAProgram(t *testing.T) {
	t.Parallel()
	s, _ := upgradable(t)
	r := s.run()
	r.until("ready")
	end := s.busy("far")
	s.order("record", "nbd", "--for", "500ms", "-o", s.path("far.rec"))
	end()
	r.stop()
	same := program(t, "blockengine/plugins/nbd/process")
	for _, args := range [][]string{{}, {"--exact"}, {"--sandbox", "off", "--memory", "64MiB"}} {
		got := s.do(append([]string{"plugin", "replay", s.path("far.rec"), same, "--json"}, args...)...)
		var res struct {
			Requests uint64 `json:"requests"`
			Whole    bool   `json:"whole"`
		}
		if err := json.Unmarshal([]byte(got.stdout), &res); err != nil || got.status != exitDone || res.Requests == 0 || !res.Whole {
			t.Errorf("%v: %+v, %v", args, got, err)
		}
	}
	other := s.do("plugin", "replay", s.path("far.rec"), same, "--option", "export=other", "--diff")
	if other.status != exitFailed || !strings.Contains(other.stdout, "\n+ Fail ") || !strings.Contains(other.stderr, "the versions differ") {
		t.Errorf("%+v", other)
	}
	for _, c := range []struct {
		args   []string
		status int
		text   string
	}{
		{[]string{program(t, "blockengine/internal/e2e/teststore")}, exitWrong, "is a store plugin"},
		{[]string{s.path("far.rec")}, exitFailed, "is no plugin"},
		{[]string{"/bin/true"}, exitFailed, "did not come up"},
		{[]string{same, "--sandbox", "some"}, exitWrong, "strict or off"},
		{[]string{same, "--memory", "little"}, exitWrong, "--memory"},
	} {
		got := s.do(append([]string{"plugin", "replay", s.path("far.rec")}, c.args...)...)
		if got.status != c.status || !strings.Contains(got.stderr, c.text) {
			t.Errorf("%q: %+v", c.args, got)
		}
	}
}
