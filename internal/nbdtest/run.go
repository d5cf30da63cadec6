package nbdtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// RunTimeout is the time a client program gets unless told otherwise.
const RunTimeout = 60 * time.Second

// maxOutput is how much of a program's output is kept, in bytes.
const maxOutput = 1 << 20

// Require skips t unless the program is installed, naming the Debian package;
// with CI=true in the environment it fails t instead. It gives the program's
// path.
func Require(t testing.TB, program, pkg string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	reason := fmt.Sprintf("%s is not installed: apt-get install %s", program, pkg)
	if os.Getenv("CI") == "true" {
		t.Fatal("nbdtest: in CI nothing is skipped: " + reason)
	}
	t.Skip(reason)
	return ""
}

// packages says where each program that the kit runs comes from.
var packages = map[string]string{
	"nbdkit": "nbdkit", "qemu-nbd": "qemu-utils", "qemu-img": "qemu-utils", "qemu-io": "qemu-utils",
	"qemu-storage-daemon": "qemu-system-common", "nbd-server": "nbd-server", "nbdinfo": "libnbd-bin",
	"nbdcopy": "libnbd-bin", "fio": "fio",
}

func require(t testing.TB, program string) string {
	t.Helper()
	pkg, known := packages[program]
	if !known {
		pkg = program
	}
	return Require(t, program, pkg)
}

// Result is what a program that ended left behind.
type Result struct {
	Command        string
	Stdout, Stderr string
	Err            error // nil: exit status 0
}

func (r Result) String() string {
	return fmt.Sprintf("%s: %v\nstdout: %s\nstderr: %s", r.Command, r.Err, r.Stdout, r.Stderr)
}

// Run runs a program to its end, or kills it at the timeout (0: RunTimeout).
// A missing program skips t, see Require.
func Run(t testing.TB, timeout time.Duration, program string, args ...string) Result {
	t.Helper()
	path := require(t, program)
	if timeout == 0 {
		timeout = RunTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second // grandchildren may keep the pipes
	var out, errOut tail
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("killed after %v: %w", timeout, errors.Join(ctx.Err(), err))
	}
	return Result{program + " " + strings.Join(args, " "), out.String(), errOut.String(), err}
}

// MustRun is Run that fails t, with the captured output, unless the program
// ends with status 0. It gives stdout.
func MustRun(t testing.TB, timeout time.Duration, program string, args ...string) string {
	t.Helper()
	r := Run(t, timeout, program, args...)
	if r.Err != nil {
		t.Fatalf("nbdtest: %v", r)
	}
	return r.Stdout
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *tail) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(b)
	if extra := w.buf.Len() - maxOutput; extra > 0 {
		w.buf.Next(extra)
	}
	return len(b), nil
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// NBDInfo is the part of nbdinfo --json about one export.
type NBDInfo struct {
	Name        string   `json:"export-name"`
	Description string   `json:"description"`
	Contexts    []string `json:"contexts"`
	Size        int64    `json:"export-size"`
	ReadOnly    bool     `json:"is_read_only"`
	MultiConn   bool     `json:"can_multi_conn"`
	Flush       bool     `json:"can_flush"`
	FUA         bool     `json:"can_fua"`
	Trim        bool     `json:"can_trim"`
	Zero        bool     `json:"can_zero"`
	DF          bool     `json:"can_df"`
	Cache       bool     `json:"can_cache"`
	FastZero    bool     `json:"can_fast_zero"`
	BlockMin    int64    `json:"block_size_minimum"`
	BlockPref   int64    `json:"block_size_preferred"`
	BlockMax    int64    `json:"block_size_maximum"`
}

// Nbdinfo runs nbdinfo on a URI and gives its exports; args can hold "--list".
func Nbdinfo(t testing.TB, uri string, args ...string) []NBDInfo {
	t.Helper()
	out := MustRun(t, 0, "nbdinfo", append(append([]string{"--json"}, args...), uri)...)
	var doc struct {
		Exports []NBDInfo `json:"exports"`
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("nbdtest: nbdinfo gave no JSON: %v\n%s", err, out)
	}
	return doc.Exports
}

// FioResult is what most tests want of fio; JSON is all of it.
type FioResult struct {
	ReadIOs, WriteIOs   int64
	ReadIOPS, WriteIOPS float64
	Errors              int64
	JSON                []byte
}

// Fio runs one job with fio's nbd engine against a URI and fails t if fio does.
// args are more of fio's options, e.g. "--rw=randrw", "--runtime=2".
func Fio(t testing.TB, timeout time.Duration, uri string, args ...string) FioResult {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "fio.json")
	all := append([]string{"--name=job", "--ioengine=nbd", "--uri=" + uri, "--thread",
		"--verify_state_save=0", "--aux-path=" + dir,
		"--output-format=json", "--output=" + file}, args...)
	r := Run(t, timeout, "fio", all...)
	b, err := os.ReadFile(file)
	if err := errors.Join(r.Err, err); err != nil {
		t.Fatalf("nbdtest: %v\n%s", r, b)
	}
	res, err := parseFio(b)
	if err != nil {
		t.Fatalf("nbdtest: %v\n%s", err, b)
	}
	return res
}

// parseFio takes fio's JSON, which notices can precede.
func parseFio(b []byte) (FioResult, error) {
	type side struct {
		Total int64   `json:"total_ios"`
		IOPS  float64 `json:"iops"`
	}
	var doc struct {
		Jobs []struct {
			Error int64 `json:"error"`
			Read  side  `json:"read"`
			Write side  `json:"write"`
		} `json:"jobs"`
	}
	i := bytes.IndexByte(b, '{')
	if i < 0 {
		return FioResult{}, errors.New("fio gave no JSON")
	}
	if err := json.NewDecoder(bytes.NewReader(b[i:])).Decode(&doc); err != nil {
		return FioResult{}, fmt.Errorf("fio's JSON: %w", err)
	}
	res := FioResult{JSON: b[i:]}
	for _, j := range doc.Jobs {
		res.Errors += j.Error
		res.ReadIOs, res.WriteIOs = res.ReadIOs+j.Read.Total, res.WriteIOs+j.Write.Total
		res.ReadIOPS, res.WriteIOPS = res.ReadIOPS+j.Read.IOPS, res.WriteIOPS+j.Write.IOPS
	}
	return res, nil
}
