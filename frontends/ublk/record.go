package ublk

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"blockengine/sdk/block"
)

// record is what is written beside a device, before the device is made: how it
// is found again and what disk it stands for. A kill at any instant leaves
// either no device, or one whose token a record has.
type record struct {
	Version   int    `json:"version"`
	Token     uint64 `json:"token,string"` // the driver keeps it with the device
	ID        int    `json:"id"`           // -1: not known yet; the token tells
	Name      string `json:"name"`         // the export's
	Volume    string `json:"volume"`
	Identity  string `json:"identity"`
	Size      uint64 `json:"size"` // bytes
	BlockSize uint32 `json:"block_size"`
	ReadOnly  bool   `json:"read_only"`
	Recovery  string `json:"recovery"`
}

const (
	recordVersion = 1
	recordDir     = "ublk"
	recordEnd     = ".json"
	journalEnd    = ".inflight"
	maxRecord     = 64 << 10 // bytes that are read of one
)

// records is the part of the state directory that devices are remembered in.
type records struct{ dir string }

func recordsIn(stateDir string) records { return records{filepath.Join(stateDir, recordDir)} }

// path gives the file of an export's; any name makes one that is no other's.
func (s records) path(name, end string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return filepath.Join(s.dir, b.String()+end)
}

// load gives the record of an export, nil if there is none.
func (s records) load(name string) (*record, error) {
	r, err := readRecord(s.path(name, recordEnd))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return r, err
}

func readRecord(path string) (*record, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("ublk: %w", err)
	}
	if st.Size() > maxRecord {
		return nil, fmt.Errorf("ublk: %s has %d bytes, no record is that long: remove it, and the device that it was for (engine ublk list)", path, st.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ublk: %w", err)
	}
	r := &record{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("ublk: %s: %w: remove it, and the device that it was for (engine ublk list)", path, err)
	}
	if r.Version != recordVersion || r.Token == 0 {
		return nil, fmt.Errorf("ublk: %s is of version %d, this engine writes %d: use the engine that wrote it, or remove the device and the file", path, r.Version, recordVersion)
	}
	return r, nil
}

// all gives every record, and the errors of those that cannot be read.
func (s records) all() (list []*record, err error) {
	paths, err := filepath.Glob(filepath.Join(s.dir, "*"+recordEnd))
	if err != nil {
		return nil, fmt.Errorf("ublk: %w", err)
	}
	var errs []error
	for _, path := range paths {
		r, err := readRecord(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, r)
	}
	return list, errors.Join(errs...)
}

// save writes a record so that it is there whole or not at all, and lasts.
func (s records) save(r *record) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("ublk: %w", err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("ublk: %w", err)
	}
	path := s.path(r.Name, recordEnd)
	tmp := path + "~"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("ublk: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("ublk: %w", err)
	}
	return s.sync()
}

// sync makes changes of names last.
func (s records) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("ublk: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("ublk: %w", err)
	}
	return nil
}

// newToken gives a number that no other device has; never 0.
func newToken() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it does not fail
	return binary.LittleEndian.Uint64(b[:]) | 1
}

// same tells why a volume is not the disk that a device was made for (DESIGN
// chapter 2, rule 4). size is the device's in bytes, as the kernel has it. A disk
// may have grown.
func (r *record) same(volume string, info *block.Info, size uint64) error {
	switch {
	case info.Identity != r.Identity:
		return fmt.Errorf("the volume is now disk %q, the device was made for %q: another disk is not written to", info.Identity, r.Identity)
	case r.Identity == "" && volume != r.Volume:
		return fmt.Errorf("the device was made for volume %q, this is %q, and neither shows an identity by which they could be known as one", r.Volume, volume)
	case info.Size < size:
		return fmt.Errorf("the volume has shrunk from %d to %d bytes", size, info.Size)
	case info.BlockSize != r.BlockSize:
		return fmt.Errorf("the volume's block size was %d and is now %d", r.BlockSize, info.BlockSize)
	case info.Has(block.CapReadOnly) && !r.ReadOnly:
		return errors.New("the volume has become read only")
	}
	return nil
}

// forget removes the record of a device that is not there any more. The journal
// stays: what a dead engine owes it owes to the volume.
func (s records) forget(name string) error { return s.remove(name, recordEnd) }

// forgive removes the journal, which has nothing in it any more.
func (s records) forgive(name string) error { return s.remove(name, journalEnd) }

func (s records) remove(name, end string) error {
	if err := os.Remove(s.path(name, end)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ublk: %w", err)
	}
	return nil
}
