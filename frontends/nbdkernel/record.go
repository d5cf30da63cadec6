package nbdkernel

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"blockengine/sdk/block"
)

// record is what is kept of a device in the state directory. It is written
// before the device is made, so that every device of ours has one; a record
// without a device is of one that never came to be, or of a host that was
// started anew.
type record struct {
	Name      string `json:"export"`
	Backend   string `json:"backend"` // the driver keeps it with the device
	Volume    string `json:"volume"`
	Identity  string `json:"identity"`
	Size      uint64 `json:"size"` // bytes, of the volume
	BlockSize uint32 `json:"block_size"`

	Connections int `json:"connections"`
}

const (
	recordDir   = "nbd-kernel"
	recordEnd   = ".json"
	maxRecord   = 64 << 10 // bytes of a file
	backendName = "engine/"
)

// newRecord describes a device that is to be made.
func newRecord(o *Options, info *block.Info) (*record, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	return &record{Name: o.Name, Backend: backendName + hex.EncodeToString(b[:]), Volume: o.Volume.Name(),
		Identity: info.Identity, Size: info.Size, BlockSize: info.BlockSize, Connections: o.Connections}, nil
}

// sameDisk says why a volume is not the one that the device was made for; nil if
// it is, as far as one can tell (DESIGN, chapter 2, rule 4).
func (r *record) sameDisk(volume string, info *block.Info) error {
	switch {
	case r.Identity != info.Identity:
		return fmt.Errorf("the device was made for a disk with identity %q, and volume %q has %q", r.Identity, volume, info.Identity)
	case info.Identity == "" && r.Volume != volume:
		return fmt.Errorf("the device was made for volume %q, and this is %q; neither disk says who it is", r.Volume, volume)
	case r.BlockSize != info.BlockSize:
		return fmt.Errorf("the device was made with blocks of %d bytes, and volume %q has blocks of %d", r.BlockSize, volume, info.BlockSize)
	case info.Size < r.Size:
		return fmt.Errorf("the device was made for %d bytes, and volume %q has shrunk to %d", r.Size, volume, info.Size)
	}
	return nil
}

// recordPath is where the record of an export is. Names cannot leave the
// directory: what they could do so with is escaped.
func recordPath(stateDir, name string) string {
	return filepath.Join(stateDir, recordDir, url.PathEscape(name)+recordEnd)
}

// readRecord gives nil where there is none.
func readRecord(path string) (*record, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, err
	}
	r := &record{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err = d.Decode(r)
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no record of a device: %w: remove it, and the device with nbd-client -d if there is one", path, err)
	}
	return r, nil
}

// check refuses what no engine has written.
func (r *record) check() error {
	switch {
	case !strings.HasPrefix(r.Backend, backendName) || len(r.Backend) > MaxName:
		return fmt.Errorf("backend %q", r.Backend)
	case r.Connections < 1 || r.Connections > MaxConnections:
		return fmt.Errorf("%d connections", r.Connections)
	}
	return nil
}

// write makes the record durable: whole or not at all, whatever ends us.
func (r *record) write(stateDir string) error {
	path := recordPath(stateDir, r.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	next := path + ".new"
	if err := writeSynced(next, append(b, '\n')); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// forget removes the record.
func forget(stateDir, name string) error {
	path := recordPath(stateDir, name)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// records gives all that are remembered; those that cannot be read are left out.
func records(stateDir string) (list []*record) {
	names, _ := filepath.Glob(filepath.Join(escapeGlob(stateDir), recordDir, "*"+recordEnd))
	for _, name := range names {
		if r, err := readRecord(name); err == nil && r != nil {
			list = append(list, r)
		}
	}
	return list
}

// escapeGlob has a path stand for itself in a pattern.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
