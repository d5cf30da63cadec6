package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"blockengine/engine/config"
)

// stateDir is the directory that one engine has for itself while it holds lock.
type stateDir struct {
	path string
	lock *os.File
}

const (
	lockName     = "lock"
	cacheName    = "cache"
	lockPatience = 200 * time.Millisecond // engine check holds the lock for a moment
)

// openStateDir makes the directory if need be and locks it. Errors are
// *config.ValueError.
func openStateDir(path string) (*stateDir, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, stateDirError(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, stateDirError(err)
	}
	if err := checkOwner(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, stateDirError(err)
	}
	if err := takeLock(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &stateDir{path: path, lock: f}, nil
}

func stateDirError(err error) error {
	return &config.ValueError{What: "cannot be used: " + err.Error(), Fix: "choose a directory that this user may write in"}
}

// takeLock locks the file and writes the process's number into it.
func takeLock(f *os.File) error {
	deadline := time.Now().Add(lockPatience)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return stateDirError(fmt.Errorf("lock %s: %w", f.Name(), err))
		}
		if time.Now().After(deadline) {
			return inUse(f)
		}
		time.Sleep(lockPatience / 10)
	}
	err := f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		return stateDirError(err)
	}
	return nil
}

// engineRunning is why a state directory is refused that an engine uses.
type engineRunning struct{ *config.ValueError }

// Unwrap gives what problems are made of.
func (e *engineRunning) Unwrap() error { return e.ValueError }

func inUse(f *os.File) error {
	who := "another engine"
	b := make([]byte, 32)
	if n, _ := f.ReadAt(b, 0); n > 0 {
		who += " (pid " + strings.TrimSpace(string(b[:n])) + ")"
	}
	return &engineRunning{&config.ValueError{What: "is in use by " + who,
		Fix: "stop that one, or give this one a state_dir of its own"}}
}

// checkOwner refuses a directory that somebody else could have prepared: it may
// lie where all users can write.
func checkOwner(path string) error {
	link, err := os.Lstat(path)
	if err != nil {
		return stateDirError(err)
	}
	dir, err := os.Stat(path)
	if err != nil {
		return stateDirError(err)
	}
	own := uint32(os.Geteuid())
	uid, linkUID := dir.Sys().(*syscall.Stat_t).Uid, link.Sys().(*syscall.Stat_t).Uid
	switch {
	case !dir.IsDir():
		return &config.ValueError{What: "is no directory", Fix: "choose another path"}
	case uid != own:
		return &config.ValueError{What: fmt.Sprintf("belongs to user %d and the engine runs as user %d", uid, own),
			Fix: "choose another directory, or change its owner"}
	case linkUID != own && linkUID != 0:
		return &config.ValueError{What: fmt.Sprintf("is a link that belongs to user %d", linkUID), Fix: "choose another directory"}
	case dir.Mode().Perm()&0o022 != 0:
		return &config.ValueError{What: fmt.Sprintf("may be written by others (mode %#o)", dir.Mode().Perm()), Fix: "chmod 700 it"}
	}
	return nil
}

// lookAtStateDir tells what openStateDir would say, without making anything.
func lookAtStateDir(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return canMake(path)
	}
	if err := checkOwner(path); err != nil {
		return err
	}
	if err := syscall.Access(path, accessWrite|accessSearch); err != nil {
		return stateDirError(&fs.PathError{Op: "write in", Path: path, Err: err})
	}
	f, err := os.Open(filepath.Join(path, lockName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return stateDirError(err)
	}
	defer f.Close() // and with it the lock
	if errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
		return inUse(f)
	}
	return nil
}

// Modes of access(2).
const accessWrite, accessSearch = 2, 1

// canMake looks whether path can be made below the first of its parents that
// is there.
func canMake(path string) error {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			continue
		}
		if err == nil && !st.IsDir() {
			err = &fs.PathError{Op: "mkdir in", Path: dir, Err: syscall.ENOTDIR}
		}
		if err == nil {
			if e := syscall.Access(dir, accessWrite|accessSearch); e != nil {
				err = &fs.PathError{Op: "mkdir in", Path: dir, Err: e}
			}
		}
		if err != nil {
			return stateDirError(err)
		}
		return nil
	}
}

// close lets the next engine have the directory. The lock's file stays: to
// remove it would let two engines lock two files of that name.
func (s *stateDir) close() {
	_ = s.lock.Truncate(0) // a number that nobody has any more confuses only
	_ = s.lock.Close()
}
