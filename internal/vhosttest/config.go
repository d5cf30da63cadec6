package vhosttest

import (
	"context"
	"fmt"
	"net"
	"os"
)

// Config is the block device's configuration space (virtio 1.2, 5.2.4), as far
// as it was asked for.
type Config struct {
	Capacity                                    uint64 // in sectors
	SizeMax, SegMax, BlkSize                    uint32
	PhysicalExp, AlignmentOffset                uint8
	MinIO                                       uint16
	OptIO                                       uint32
	Writeback                                   uint8
	NumQueues                                   uint16
	MaxDiscard, MaxDiscardSeg, DiscardAlignment uint32
	MaxWriteZeroes, MaxWriteZeroesSeg           uint32
	WriteZeroesMayUnmap                         uint8
}

// decodeConfig takes what there is; the rest is zero.
func decodeConfig(b []byte) Config {
	b = append(append([]byte(nil), b...), make([]byte, 64)...)
	return Config{
		Capacity: le.Uint64(b), SizeMax: le.Uint32(b[8:]), SegMax: le.Uint32(b[12:]), BlkSize: le.Uint32(b[20:]),
		PhysicalExp: b[24], AlignmentOffset: b[25], MinIO: le.Uint16(b[26:]), OptIO: le.Uint32(b[28:]),
		Writeback: b[32], NumQueues: le.Uint16(b[34:]),
		MaxDiscard: le.Uint32(b[36:]), MaxDiscardSeg: le.Uint32(b[40:]), DiscardAlignment: le.Uint32(b[44:]),
		MaxWriteZeroes: le.Uint32(b[48:]), MaxWriteZeroesSeg: le.Uint32(b[52:]), WriteZeroesMayUnmap: b[56],
	}
}

// Config is what the personality read when it connected first, or since.
func (f *Frontend) Config() Config { return decodeConfig(f.config) }

// Sectors is the disk's size.
func (f *Frontend) Sectors() uint64 { return f.Config().Capacity }

// Refresh reads the configuration again, as a front-end does when it is told of
// a change.
func (f *Frontend) Refresh() (Config, error) {
	err := f.getConfig()
	return f.Config(), err
}

// ReadConfig reads bytes of the configuration space; nil if CONFIG was not
// negotiated. The reply must be of the same place and length.
func (f *Frontend) ReadConfig(offset uint32, n int) ([]byte, error) {
	if f.protocol&PConfig == 0 {
		return nil, nil
	}
	m, err := f.ask(GetConfig, configAccess(offset, uint32(n), 0, make([]byte, n)))
	if err != nil {
		return nil, err
	}
	if len(m.Payload) != 12+n || le.Uint32(m.Payload) != offset || le.Uint32(m.Payload[4:]) != uint32(n) {
		return nil, fmt.Errorf("vhosttest: GET_CONFIG of %d bytes at %d: the reply has %d bytes and begins %x", n, offset, len(m.Payload), m.Payload[:min(12, len(m.Payload))])
	}
	return m.Payload[12:], nil
}

// WriteConfig writes to the configuration space, e.g. the write cache's switch
// at offset 32 (virtio 1.2, 5.2.6.2).
func (f *Frontend) WriteConfig(offset uint32, b []byte) error {
	return f.tell(SetConfig, configAccess(offset, uint32(len(b)), 0, b))
}

// listenToBackend takes messages of the back-end's own from a channel that
// exists as fd.
func (f *Frontend) listenToBackend(fd int) error {
	file := os.NewFile(uintptr(fd), "backend channel")
	defer file.Close() // FileConn has a copy
	c, err := net.FileConn(file)
	if err != nil {
		return err
	}
	f.channelMu.Lock()
	f.channel = c.(*net.UnixConn)
	f.channelMu.Unlock()
	f.channels.Go(func() {
		defer c.Close()
		for f.answer(c.(*net.UnixConn)) == nil {
		}
	})
	return nil
}

// answer takes one message and acknowledges it if that is asked for.
func (f *Frontend) answer(c *net.UnixConn) error {
	m, err := readMessage(c)
	if err != nil {
		return err
	}
	closeAll(m.FDs)
	code := uint64(1) // not known here
	if m.Request == ConfigChange {
		code = 0
		select {
		case f.changes <- struct{}{}:
		default: // nobody has looked at the last 64
		}
	}
	if m.Flags&FlagNeedReply == 0 {
		return nil
	}
	r := Message{Request: m.Request, Flags: FlagVersion | FlagReply, Payload: u64s(code)}
	_, err = c.Write(r.encode())
	return err
}

// ConfigChanged waits until the back-end says that its configuration has
// changed. Then call Refresh.
func (f *Frontend) ConfigChanged(ctx context.Context) error {
	select {
	case <-f.changes:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("vhosttest: no change of the configuration was told: %w", context.Cause(ctx))
	}
}
