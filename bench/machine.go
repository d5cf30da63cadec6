package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// machine says what the figures depend on, a line each.
func machine(ctx context.Context) []string {
	lines := []string{
		fmt.Sprintf("machine: %s, %d cores, Linux %s", cpuModel(), runtime.NumCPU(), firstLine("/proc/sys/kernel/osrelease")),
		"compiler: " + runtime.Version(),
	}
	for _, program := range []string{"nbdkit", "qemu-storage-daemon", "fio"} {
		lines = append(lines, program+": "+version(ctx, program))
	}
	return lines
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	return modelIn(string(text))
}

// modelIn finds the first CPU's name; not every architecture tells one.
func modelIn(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func firstLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "(unknown)"
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

// version is the first line of what a program says about itself.
func version(ctx context.Context, program string) string {
	path, err := find(program)
	if err != nil {
		return "missing"
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "(unknown: " + err.Error() + ")"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
