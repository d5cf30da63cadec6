package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// The versions that the two good builds of the nbd plugin tell, and the bad one.
const (
	version1   = "1.0.0"
	version2   = "2.0.0"
	versionBad = "bad"
)

// step is a line that "engine plugin upgrade --json" prints.
type step struct {
	Phase  string  `json:"phase"`
	Volume string  `json:"volume"`
	Method string  `json:"method"`
	Pause  float64 `json:"pause_seconds"`
	Text   string  `json:"text"`
}

// order is what an operator has told the engine to do with a plugin, as a
// process that prints how it goes.
type order struct {
	*process
	t testing.TB
}

// orderLimit bounds an order. Most of it is for those that wait for a login
// that never ends.
const orderLimit = 90 * time.Second

// order runs "engine plugin ARGS", in JSON.
func (e *engine) order(args ...string) *order {
	e.t.Helper()
	p, err := spawn(built.engine, append(append([]string{"plugin"}, args...), "--json", "-c", e.file)...)
	if err != nil {
		e.t.Errorf("engine plugin %v: %v", args, err)
		return &order{&process{done: closed(), err: err}, e.t}
	}
	return &order{p, e.t}
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// wait gives the error of the exit status with what was said, nil if the order
// was carried out.
func (o *order) wait() error {
	o.t.Helper()
	select {
	case <-o.done:
	case <-time.After(orderLimit):
		o.kill()
		o.t.Errorf("%v does not end:\n%s", o.cmd.Args, o.out.String())
	}
	if o.err == nil {
		return nil
	}
	return fmt.Errorf("%w\n%s%s", o.err, o.out.String(), o.log.String())
}

// status is the exit status of an order that has ended.
func (o *order) status() int { return o.cmd.ProcessState.ExitCode() }

// steps are the lines that it has printed whole so far.
func (o *order) steps() []step {
	o.t.Helper()
	var all []step
	for line := range strings.Lines(o.out.String()) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var s step
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			o.t.Errorf("%v printed %q: %v", o.cmd.Args, line, err)
		}
		all = append(all, s)
	}
	return all
}

// waitPhase waits until the order has come to a phase, and reports whether it
// has.
func (o *order) waitPhase(phase string) bool {
	return o.waitOutput(fmt.Sprintf(`"phase":%q`, phase), orderLimit)
}

// takeovers gives for each volume how it was taken over in the end: methods that
// were tried in vain are told of before.
func takeovers(steps []step) map[string]step {
	last := map[string]step{}
	for _, s := range steps {
		if s.Phase == "takeover" && s.Volume != "" && s.Method != "" {
			last[s.Volume] = s
		}
	}
	return last
}

// tryUpgrade goes over to another file of plugin nbd, without a watch unless
// args say so.
func (e *engine) tryUpgrade(file string, args ...string) ([]step, error) {
	e.t.Helper()
	if !slices.Contains(args, "--watch") {
		args = append(slices.Clone(args), "--watch", "0s")
	}
	o := e.order(append([]string{"upgrade", "nbd", file}, args...)...)
	err := o.wait()
	return o.steps(), err
}

// upgrade is tryUpgrade that has to succeed. It does not end the test, so that
// it can be used on any goroutine.
func (e *engine) upgrade(file string, args ...string) []step {
	e.t.Helper()
	steps, err := e.tryUpgrade(file, args...)
	if err != nil {
		e.t.Errorf("upgrade to %s: %v", filepath.Base(file), err)
	}
	return steps
}

func (e *engine) tryRollback(args ...string) ([]step, error) {
	e.t.Helper()
	o := e.order(append([]string{"rollback", "nbd"}, args...)...)
	err := o.wait()
	return o.steps(), err
}

func (e *engine) rollback(args ...string) []step {
	e.t.Helper()
	steps, err := e.tryRollback(args...)
	if err != nil {
		e.t.Errorf("rollback: %v", err)
	}
	return steps
}

// refuse wants an order to fail with exit status 1, and a word of the reason.
func (e *engine) refuse(word string, args ...string) {
	e.t.Helper()
	o := e.order(args...)
	err := o.wait()
	switch {
	case err == nil:
		e.t.Errorf("engine plugin %v: not refused:\n%s", args, o.out.String())
	case o.status() != 1:
		e.t.Errorf("engine plugin %v: ends with %d, want 1: %v", args, o.status(), err)
	case !strings.Contains(strings.ToLower(err.Error()), word):
		e.t.Errorf("engine plugin %v: no word of %q: %v", args, word, err)
	default:
		e.t.Logf("refused: %s", strings.TrimSpace(o.log.String()))
	}
}

// runs wants a volume to run a version of its plugin.
func (e *engine) runs(volume, version string) admin.Volume {
	e.t.Helper()
	v := e.volume(volume)
	if v.Version != version {
		e.t.Errorf("volume %s runs version %s (generation %d), want %s", volume, v.Version, v.Generation, version)
	}
	return v
}

// unhurt wants a volume to have failed nothing and lost no connection.
func (e *engine) unhurt(name string) {
	e.t.Helper()
	v := e.volume(name)
	if n := *v.Session; v.State != "online" || len(v.Errors) != 0 || n.Losses+n.Violations+n.LostCaches+n.Expired != 0 {
		e.t.Errorf("volume %s is %s (%s), errors %v, %+v", name, v.State, v.Reason, v.Errors, n)
	}
}

// manifestPlace is the filling of badnbd's variable manifestFault.
var manifestPlace = []byte("fault:..................................")

// badManifest gives badnbd with a manifest that has a fault. For other faults
// see onServer.
func badManifest(t testing.TB, fault string) string {
	t.Helper()
	b, err := os.ReadFile(built.bad)
	must(t, err)
	if n := bytes.Count(b, manifestPlace); n != 1 {
		t.Fatalf("the place for the fault is there %d times", n)
	}
	with := append([]byte("fault:"), fault...)
	with = append(with, bytes.Repeat([]byte{'.'}, len(manifestPlace)-len(with))...)
	path := filepath.Join(t.TempDir(), fault+".wasm")
	must(t, os.WriteFile(path, bytes.Replace(b, manifestPlace, with, 1), 0o600))
	return path
}

// onServer starts an engine whose one volume, disk, is on an export of a
// scripted server. built.bad, if that comes to run, has the fault that the export
// is called by. more are the lines of the [[volume]].
func onServer(t *testing.T, export string, flags uint16, neg nbdtest.Negotiation, more string) (*nbdtest.Server, *engine) {
	t.Helper()
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{Negotiation: neg, Exports: []nbdtest.Export{exportOf(export, flags)}})
	e := startEngine(t, config{engine: "reactors = 2", http: "127.0.0.1:0",
		volumes: []volume{nbdOn("disk", s, export, more)}})
	e.waitUp("disk")
	return s, e
}

// exportOf makes an export with a new disk.
func exportOf(name string, flags uint16) nbdtest.Export {
	return nbdtest.Export{Name: name, Disk: nbdtest.NewDisk(16 << 20), Flags: flags}
}

// nbdOn is a volume on an export of a server.
func nbdOn(name string, s *nbdtest.Server, export, more string) volume {
	v := nbdVolume(name, s.Addr(), more)
	v.options = fmt.Sprintf("export = %q", export)
	return v
}

// single is a server for one client: it does not promise multi-conn, and others
// wait until the one has left.
const single = nbdtest.DefaultFlags &^ nbdtest.FlagMultiConn

var oneClient = nbdtest.Negotiation{MaxClients: 1}

// exitError tells an order that was refused from one that could not be given.
func exitError(err error) bool {
	var x interface{ ExitCode() int }
	return errors.As(err, &x) && x.ExitCode() == 1
}

// hashOf a file, SHA-256 in hex.
func hashOf(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(b))
}
