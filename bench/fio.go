package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// outcome is what the client saw.
type outcome struct {
	requests int
	iops     float64
	p50, p99 float64 // µs, from submission to completion
}

// client is one run of fio.
type client struct {
	load    load
	uri     string
	dir     string        // for its output
	runtime time.Duration // at most, or exactly if loop
	loop    bool          // start over at the end of the region
}

// args are fio's. No ramp_time: the requests of a ramp are not reported, and
// then the servers' CPU time, which has no such gap, could not be divided by
// the right number. A run before this one has warmed the server up.
func (c *client) args(output string) []string {
	args := []string{
		"--name=bench", "--ioengine=nbd", "--uri=" + c.uri, "--output=" + output, "--output-format=json",
		"--thread=1", "--numjobs=1", "--randrepeat=1", "--norandommap=1", "--eta=never",
		"--rw=" + c.load.rw,
		fmt.Sprintf("--bs=%d", c.load.block),
		fmt.Sprintf("--iodepth=%d", c.load.depth),
		fmt.Sprintf("--size=%d", regionSize),
		fmt.Sprintf("--runtime=%dms", c.runtime.Milliseconds()),
		"--percentile_list=50:99",
	}
	if c.loop {
		args = append(args, "--time_based=1")
	}
	return args
}

// run runs fio to its end.
func (c *client) run(ctx context.Context) (outcome, error) {
	program, err := find("fio")
	if err != nil {
		return outcome{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit(c.runtime))
	defer cancel()
	output := filepath.Join(c.dir, "fio.json")
	defer os.Remove(output)
	cmd := exec.CommandContext(ctx, program, c.args(output)...)
	cmd.Dir = c.dir // fio may leave files where it runs
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return outcome{}, fmt.Errorf("fio: %w", ctx.Err())
	}
	if err != nil {
		return outcome{}, fmt.Errorf("fio: %w: %s", err, strings.Join(strings.Fields(string(said)), " "))
	}
	text, err := os.ReadFile(output)
	if err != nil {
		return outcome{}, fmt.Errorf("fio: %w", err)
	}
	return parseFio(text)
}

// fioReport is the part of fio's JSON that is of use.
type fioReport struct {
	Jobs []struct {
		Error int          `json:"error"` // errno
		Read  fioDirection `json:"read"`
		Write fioDirection `json:"write"`
	} `json:"jobs"`
}

type fioDirection struct {
	TotalIOs int     `json:"total_ios"`
	IOPS     float64 `json:"iops"`
	Clat     struct {
		Percentile map[string]float64 `json:"percentile"` // ns
	} `json:"clat_ns"`
}

// parseFio reads fio's report of a job that only reads or only writes. Its nbd
// engine prints a line of its own before the JSON.
func parseFio(text []byte) (outcome, error) {
	i := bytes.IndexByte(text, '{')
	if i < 0 {
		return outcome{}, fmt.Errorf("fio printed no JSON: %.200q", text)
	}
	var r fioReport
	if err := json.Unmarshal(text[i:], &r); err != nil {
		return outcome{}, fmt.Errorf("fio's JSON: %w", err)
	}
	if len(r.Jobs) != 1 {
		return outcome{}, fmt.Errorf("fio reports %d jobs instead of one", len(r.Jobs))
	}
	job := &r.Jobs[0]
	if job.Error != 0 {
		return outcome{}, fmt.Errorf("fio's job failed: %w", syscall.Errno(job.Error))
	}
	d := &job.Read
	if job.Write.TotalIOs > d.TotalIOs {
		d = &job.Write
	}
	return d.outcome()
}

func (d *fioDirection) outcome() (outcome, error) {
	p50, ok50 := d.Clat.Percentile["50.000000"]
	p99, ok99 := d.Clat.Percentile["99.000000"]
	if d.TotalIOs <= 0 || !(d.IOPS > 0) || math.IsInf(d.IOPS, 0) || !ok50 || !ok99 {
		return outcome{}, errors.New("fio reports no finished requests")
	}
	return outcome{d.TotalIOs, d.IOPS, p50 / 1e3, p99 / 1e3}, nil
}
