package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in /proc/PID/stat: the kernel shows 1/100 s
// to all programs on every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuTime is what a process and those that it has started have used, in user mode
// and in the kernel. One that ends meanwhile is not counted.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	sum, err := parseStat(string(text))
	for _, child := range children(pid) {
		if t, err := cpuTime(child); err == nil {
			sum += t
		}
	}
	return sum, err
}

// children of a process, none where the kernel does not tell.
func children(pid int) (list []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(field); err == nil {
				list = append(list, n)
			}
		}
	}
	return list
}

// parseStat reads utime and stime, fields 14 and 15 of proc(5). The second
// field, the program's name, may hold blanks and parentheses.
func parseStat(text string) (time.Duration, error) {
	_, rest, ok := cutLast(text, ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("/proc/PID/stat has an unknown form: %q", text)
	}
	user, err1 := strconv.ParseUint(fields[11], 10, 63)
	system, err2 := strconv.ParseUint(fields[12], 10, 63)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("/proc/PID/stat: %w", err)
	}
	return time.Duration(user+system) * clockTick, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// memory gives a process's resident memory, in bytes, and number of threads.
func memory(pid int) (rss, threads int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	return parseStatus(string(text))
}

func parseStatus(text string) (rss, threads int, err error) {
	rss, threads = -1, -1
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		n, numErr := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		switch {
		case numErr != nil:
		case key == "VmRSS":
			rss = n << 10
		case key == "Threads":
			threads = n
		}
	}
	if rss < 0 || threads < 0 {
		return 0, 0, errors.New("/proc/PID/status lacks VmRSS or Threads")
	}
	return rss, threads, nil
}
