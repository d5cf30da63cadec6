package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// upgradeNews is what the engine says of an upgrade.
type upgradeNews struct {
	method string
	pause  time.Duration // the longest that a request had to wait for it
	loaded time.Time     // when the module was compiled and loaded
}

// upgradeEvent is a line of `engine plugin upgrade --json`.
type upgradeEvent struct {
	Time   time.Time `json:"time"`
	Phase  string    `json:"phase"`
	Method string    `json:"method"`
	Pause  float64   `json:"pause_seconds"`
	Error  string    `json:"error"`
}

// upgrader gives an engine orders by the command that operators use.
func (in *upgradeInstance) upgrader(engine, method string) upgrader {
	return func(ctx context.Context, file string) (upgradeNews, error) {
		ctx, cancel := context.WithTimeout(ctx, upgradeTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, engine, "plugin", "upgrade", "nbdwasm", file,
			"--method", method, "--watch", "0s", "--json", "-c", in.config)
		var out, complaint bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaint
		cmd.WaitDelay = time.Second
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Run(); err != nil {
			return upgradeNews{}, fmt.Errorf("%s: %w: %s", commandLine(cmd.Args), err, strings.Join(strings.Fields(complaint.String()), " "))
		}
		return parseUpgrade(out.Bytes(), method)
	}
}

// parseUpgrade reads the events of an upgrade that was said to have worked.
func parseUpgrade(text []byte, method string) (upgradeNews, error) {
	var news upgradeNews
	done := false
	for line := range bytes.Lines(text) {
		var e upgradeEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return news, fmt.Errorf("the engine's events: %w: %.200q", err, line)
		}
		if e.Error != "" {
			return news, fmt.Errorf("the upgrade failed: %s", e.Error)
		}
		if news.loaded.IsZero() && e.Phase != "load" {
			news.loaded = e.Time // the next phase has begun
		}
		if e.Method != "" {
			news.method = e.Method
		}
		news.pause = max(news.pause, time.Duration(e.Pause*float64(time.Second)))
		done = done || e.Phase == "done"
	}
	switch {
	case !done:
		return news, fmt.Errorf("the engine does not say that it is done: %.300q", text)
	case news.method != method:
		return news, fmt.Errorf("the engine took over by %q and was told to by %q", news.method, method)
	}
	return news, nil
}

// buildPlugins makes builds of the nbd plugin that differ in their version: two
// that take turns, and some more. It needs the go tool and this module's source.
func buildPlugins(ctx context.Context, dir string, more int) ([]string, error) {
	versions := []string{"1.0.0", "2.0.0"}
	for i := range more {
		// Unlike every build before, so that no cache has it.
		versions = append(versions, fmt.Sprintf("3.%d.%d", i, time.Now().UnixNano()))
	}
	tool, err := find("go")
	if err != nil {
		return nil, err
	}
	var files []string
	for i, v := range versions {
		file := filepath.Join(dir, fmt.Sprintf("nbd-%d.wasm", i))
		cmd := exec.CommandContext(ctx, tool, "build", "-buildvcs=false", "-buildmode=c-shared", "-trimpath",
			"-ldflags=-s -w -X blockengine/plugins/nbd.Version="+v, "-o", file, "blockengine/plugins/nbd/wasm")
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the nbd plugin (start the benchmark in the source tree): %w: %s", err, bytes.TrimSpace(out))
		}
		files = append(files, file)
	}
	return files, nil
}
