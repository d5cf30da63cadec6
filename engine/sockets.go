package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"blockengine/engine/config"
)

// errStale: a socket is there, and nobody listens on it.
var errStale = errors.New("an earlier process has left its socket there")

// canListen tells, without keeping or changing anything, why nobody can listen
// on the address; nil if one can. makes is a directory that will be there.
func canListen(a config.Address, makes string) error {
	if a.Network == "unix" {
		err := canMakeSocket(a.Addr, makes)
		if errors.Is(err, errStale) {
			return nil // it is replaced
		}
		return err
	}
	l, err := net.Listen("tcp", a.Addr)
	if err != nil {
		return listenError(err)
	}
	return l.Close()
}

// listenError makes a *config.ValueError of why a socket could not be bound.
func listenError(err error) error {
	var no syscall.Errno
	errors.As(err, &no)
	switch no {
	case syscall.EADDRINUSE:
		return &config.ValueError{What: "is in use by another process", Fix: "stop it, or choose another address"}
	case syscall.EADDRNOTAVAIL:
		return &config.ValueError{What: "is no address of this host", Fix: "choose one that is (ip address)"}
	case syscall.EACCES, syscall.EPERM:
		return &config.ValueError{What: "is not allowed for this user", Fix: "choose another address (ports below 1024 are for root)"}
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return &config.ValueError{What: "cannot be listened on: " + err.Error(), Fix: "choose another address"}
}

func canMakeSocket(path, makes string) error {
	if err := freeSocket(path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if dir == makes {
		return nil
	}
	err := syscall.Access(dir, accessWrite|accessSearch)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &config.ValueError{What: "lies in " + dir + ", which does not exist", Fix: "make that directory"}
	}
	return &config.ValueError{What: fmt.Sprintf("cannot be made in %s: %v", dir, err),
		Fix: "give the engine's user the right to write there, or choose another path"}
}

// freeSocket is nil if nothing stands at path, and errStale if only a socket
// that a dead process has left does.
func freeSocket(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &config.ValueError{What: "cannot be made: " + err.Error(), Fix: "choose another path"}
	case st.Mode().Type() != fs.ModeSocket:
		return &config.ValueError{What: "is the path of a file that is no socket", Fix: "remove it, or choose another path"}
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return errStale
	}
	if err == nil {
		_ = c.Close()
	}
	return &config.ValueError{What: "is in use by another process", Fix: "stop it, or choose another path"}
}

// removeStale removes the socket that a dead process has left at path.
func removeStale(path string) error {
	err := freeSocket(path)
	if errors.Is(err, errStale) {
		return os.Remove(path)
	}
	return err
}
