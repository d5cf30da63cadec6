package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Engine is the [engine] section.
type Engine struct {
	Place
	// StateDir holds sockets, lock and in-flight files; absolute. It need not
	// exist. Whoever makes it must refuse one that belongs to somebody else:
	// the last of the defaults lies in a directory that all users share.
	StateDir string
	// Admin is where the engine takes orders; by default admin.sock in StateDir.
	Admin Address
	// HTTP is HOST:PORT of /metrics and /healthz, or empty: none.
	HTTP string
	// Reactors is their number; 0: one per CPU.
	Reactors int
	// Poll is how long a reactor spins before it sleeps; 0: not at all.
	Poll time.Duration
	// LockMemory keeps the engine's memory from being swapped out.
	LockMemory bool
	// LogLevel is the least level that is logged.
	LogLevel slog.Level
}

// Defaults and limits of [engine].
const (
	DefaultHTTP = "127.0.0.1:9177"
	DefaultPoll = 50 * time.Microsecond
	MaxPoll     = 10 * time.Millisecond
	MaxReactors = 256
)

const adminSocket = "admin.sock"

func (r *reader) engine(s *section) Engine {
	e := Engine{Place: s.Place}
	e.StateDir = s.path("state_dir")
	if e.StateDir == "" {
		r.noStateDir = s.has("state_dir")
		e.StateDir = DefaultStateDir()
	}
	e.Admin = r.adminAddress(s, e.StateDir)
	e.HTTP = parsed(s, "http", DefaultHTTP, "an address", `write HOST:PORT in quotes, or "" for none`, parseHTTP)
	e.Reactors = s.integer("reactors", 0, 0, MaxReactors)
	e.Poll = s.duration("poll", DefaultPoll, "50us", MaxPoll)
	e.LockMemory = s.boolean("lock_memory")
	e.LogLevel = logLevel(s)
	s.finish()
	return e
}

// DefaultStateDir is the state directory of a file that names none:
// /run/engine for root, else engine in $XDG_RUNTIME_DIR, else engine-UID in the
// directory for temporary files.
func DefaultStateDir() string {
	uid := os.Geteuid()
	if uid == 0 {
		return "/run/engine"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "engine")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("engine-%d", uid))
}

// adminAddress reads admin. A socket in a state directory whose path is too
// long for it is reported where that directory is named.
func (r *reader) adminAddress(s *section, stateDir string) Address {
	if s.has("admin") {
		return s.address("admin")
	}
	s.known = append(s.known, "admin")
	path := filepath.Join(stateDir, adminSocket)
	if len(path) > maxUnixPath {
		s.bad("state_dir", fmt.Sprintf("makes the admin socket's path %d bytes long, a Unix socket's has at most %d",
			len(path), maxUnixPath), `choose a shorter one, or set admin = "unix:PATH"`)
	}
	return Address{"unix", path}
}

func parseHTTP(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	return parseHostPort(s, s, `"`+DefaultHTTP+`", or "" for none`)
}

func logLevel(s *section) slog.Level {
	switch choice(s, "log_level", "info", []string{"debug", "info", "warn", "error"}) {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}
