package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Keep makes a restart load a plugin from another source than the file names:
// it writes the plugin's drop-in, or removes it if the file names just that.
// s.SHA256 is what the module's file has now. by says who wants it, for whoever
// reads the drop-in. kept is the drop-in's path, "" if none is needed. Whatever
// happens to the machine meanwhile, the drop-in is the old one or the new one.
func (c *Config) Keep(plugin string, s Source, by string, at time.Time) (kept string, err error) {
	p, ok := c.Plugin(plugin)
	if !ok {
		return "", errors.New("the configuration has no plugin " + quote(plugin))
	}
	dir := dropInDir(c.Engine.StateDir)
	file := DropInFile(c.Engine.StateDir, plugin)
	if p.Own.Covers(s) {
		return "", removeFile(dir, file)
	}
	d := DropIn{File: file, Name: plugin, Source: s, Instead: p.Own}
	text, err := d.format(by, at)
	if err != nil {
		return "", err
	}
	// What could not be read at the next start is not written.
	if _, err := ParseDropIn(file, text); err != nil {
		return "", err
	}
	return file, replaceFile(dir, file, text)
}

// removeFile removes a file for good. One that is not there is fine.
func removeFile(dir, file string) error {
	if err := os.Remove(file); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncDir(dir)
}

// replaceFile writes a file of mode 0600 that is seen whole or not at all.
func replaceFile(dir, file string, data []byte) error {
	if err := os.Mkdir(dir, 0o700); err == nil {
		err = syncDir(filepath.Dir(dir))
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	// What the next start would refuse is not written now.
	d, err := openDropInDir(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	defer d.Close()
	// An engine has its state directory for itself, so one name is enough, and
	// what a dead one has left is overwritten.
	temp := filepath.Join(dir, "."+filepath.Base(file)+".new")
	if err := writeSynced(temp, data); err != nil {
		_ = os.Remove(temp)
		return err
	}
	if err := os.Rename(temp, file); err != nil {
		_ = os.Remove(temp)
		return err
	}
	return d.Sync()
}

func writeSynced(file string, data []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes changes of names in a directory last.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
