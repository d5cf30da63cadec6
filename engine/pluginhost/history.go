package pluginhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Record is a generation in a plugin's history. A generation that is gone back
// to, or that goes on after a restart, has a record for each time.
type Record struct {
	Generation int       `json:"generation"`
	Version    string    `json:"version"`
	Hash       string    `json:"hash"`
	Path       string    `json:"path,omitempty"`
	Volumes    []string  `json:"volumes,omitempty"` // that it was for, if not for all
	Since      time.Time `json:"since"`
	Until      time.Time `json:"until,omitzero"`  // zero while it runs
	Ended      string    `json:"ended,omitempty"` // why; "" while it runs
	// Shadow says what it showed as the shadow of the version before, if it was
	// run so.
	Shadow string `json:"shadow,omitempty"`
}

// Bounds of a history's file.
const (
	maxRecords      = 100     // kept; the oldest go first
	maxHistoryBytes = 4 << 20 // more is not read
)

// Why a record ended when it was not an upgrade's doing.
const (
	endedEngine = "the engine ended"
	endedKilled = "the engine was killed or crashed"
)

// history is a plugin's generations, kept in a file over restarts. A file that
// cannot be written costs a warning and nothing else: volumes do not depend on
// it.
type history struct {
	path string // "": not kept
	log  *slog.Logger

	write sync.Mutex // held while the file is written; before mu
	mu    sync.Mutex // guards records; held for short copies only
	// records are oldest first. Their Volumes are replaced, never changed, so
	// copies may share them.
	records []Record
	closed  bool
}

// historyFile is the form of the file.
type historyFile struct {
	Format  int      `json:"format"`
	Records []Record `json:"records"`
}

const historyFormat = 1

// openHistory reads a plugin's history. What cannot be read is set aside, and
// what was running when the engine was killed is given an end.
func openHistory(stateDir, plugin string, log *slog.Logger) *history {
	h := &history{log: log}
	if stateDir == "" {
		return h
	}
	h.path = filepath.Join(stateDir, "history", plugin+".json")
	records, at, err := readHistory(h.path)
	if err != nil {
		h.setAside(err)
		return h
	}
	for i := range records {
		if r := &records[i]; r.Ended == "" {
			// Nobody wrote down when; the file's last change is the last
			// sign of life that there is.
			r.Ended, r.Until = endedKilled, latest(at, r.Since)
		}
	}
	h.records = records
	return h
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// readHistory gives a file's records and when it was last written. A file that
// is not there has none.
func readHistory(path string) ([]Record, time.Time, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxHistoryBytes+1))
	if err != nil {
		return nil, time.Time{}, err
	}
	records, err := parseHistory(b)
	return records, st.ModTime(), err
}

func parseHistory(b []byte) ([]Record, error) {
	if len(b) > maxHistoryBytes {
		return nil, fmt.Errorf("it has more than %d bytes", maxHistoryBytes)
	}
	var file historyFile
	if err := json.Unmarshal(b, &file); err != nil {
		return nil, err
	}
	if file.Format != historyFormat {
		return nil, fmt.Errorf("it has format %d, this engine writes %d", file.Format, historyFormat)
	}
	for _, r := range file.Records {
		if r.Generation < 1 {
			return nil, fmt.Errorf("it has a generation %d", r.Generation)
		}
	}
	return file.Records[max(0, len(file.Records)-maxRecords):], nil
}

// setAside moves an unreadable file away, for people to look at.
func (h *history) setAside(why error) {
	bad := h.path + ".bad"
	if err := os.Rename(h.path, bad); err != nil {
		h.log.Warn("the history of generations cannot be read, it starts anew", "file", h.path, "err", why, "set_aside", err)
		return
	}
	h.log.Warn("the history of generations cannot be read, it was set aside and starts anew", "file", bad, "err", why)
}

// list is a copy of the records, oldest first.
func (h *history) list() []Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.records)
}

// last is the greatest number that was ever given, 0 if none was.
func (h *history) last() int {
	n := 0
	for _, r := range h.list() {
		n = max(n, r.Generation)
	}
	return n
}

// number gives what p is called at a start of the engine: the number that it
// had before if it is what ran for all volumes last, else a new one.
func (h *history) number(p *Plugin) int {
	for _, r := range slices.Backward(h.list()) {
		if len(r.Volumes) > 0 {
			continue // of some volumes only: a restart does not go on with it
		}
		if r.Hash == p.Hash && r.Version == p.Version {
			return r.Generation
		}
		break
	}
	return h.last() + 1
}

// running is a plugin that runs, for some volumes or (none named) for all.
type running struct {
	plugin  *Plugin
	volumes []string
}

// runs notes what runs from now on. Records of what does not any more end, for
// the reason given.
func (h *history) runs(now time.Time, list []running, ended string) {
	h.change(func() {
		for i := range h.records {
			r := &h.records[i]
			if r.Ended != "" {
				continue
			}
			k := slices.IndexFunc(list, func(n running) bool { return n.plugin.Generation == r.Generation })
			if k < 0 {
				r.Until, r.Ended = now, ended
				continue
			}
			r.Volumes, r.Path = list[k].volumes, list[k].plugin.Path
			list = slices.Delete(slices.Clone(list), k, k+1)
		}
		for _, n := range list {
			p := n.plugin
			h.records = append(h.records, Record{Generation: p.Generation, Version: p.Version, Hash: p.Hash,
				Path: p.Path, Volumes: n.volumes, Since: now})
		}
	})
}

// was notes a generation that ran for some volumes and does not any more.
func (h *history) was(r Record) {
	h.change(func() { h.records = append(h.records, r) })
}

// close notes that the engine ends. Nothing is noted afterwards.
func (h *history) close(now time.Time) {
	h.runs(now, nil, endedEngine)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

// change changes the records and keeps them.
func (h *history) change(f func()) {
	h.write.Lock()
	defer h.write.Unlock()
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return
	}
	f()
	h.records = h.records[max(0, len(h.records)-maxRecords):]
	b, err := json.MarshalIndent(historyFile{historyFormat, h.records}, "", "  ")
	h.mu.Unlock()
	if h.path == "" {
		return
	}
	if err == nil {
		err = keep(h.path, append(b, '\n'))
	}
	if err != nil {
		h.log.Warn("the history of generations is not kept over a restart", "file", h.path, "err", err)
	}
}
