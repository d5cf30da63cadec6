package nbdkernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// be is the byte order of the NBD protocol.
var be = binary.BigEndian

// The handshake of the NBD protocol (doc/proto.md, "Fixed newstyle negotiation").
const (
	magicGreeting    = 0x4e42444d41474943 // NBDMAGIC
	magicOption      = 0x49484156454f5054 // IHAVEOPT
	magicOptionReply = 0x3e889045565a9

	flagFixedNewstyle = 1
	flagNoZeroes      = 2

	optGo         = 7
	repAck        = 1
	repInfo       = 3
	repError      = 1 << 31
	infoExport    = 0
	infoBlockSize = 3

	maxReply = 8 << 10 // bytes of an option reply
)

// Transmission flags (doc/proto.md) that this package looks at.
const (
	flagReadOnly     = 1 << 1
	flagCanMultiConn = 1 << 8
)

// exportInfo is what the server says of an export.
type exportInfo struct {
	size      uint64 // bytes
	flags     uint16
	blockSize uint32 // smallest request; 0: nothing was said
}

// handshakeTime bounds a handshake with a server in this process.
const handshakeTime = 10 * time.Second

// dial connects to the engine's NBD server and chooses an export. The driver
// speaks the simplest form of the protocol, so nothing else is negotiated.
func dial(ctx context.Context, path, export string) (*net.UnixConn, exportInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, exportInfo{}, err
	}
	limit, _ := ctx.Deadline()
	_ = c.SetDeadline(limit)
	info, err := negotiate(c, export)
	if err != nil {
		_ = c.Close()
		return nil, info, fmt.Errorf("negotiate for export %q on %s: %w", export, path, err)
	}
	_ = c.SetDeadline(time.Time{})
	return c.(*net.UnixConn), info, nil
}

// negotiate brings a connection to the transmission phase.
func negotiate(c io.ReadWriter, export string) (info exportInfo, err error) {
	var hello [18]byte
	if _, err := io.ReadFull(c, hello[:]); err != nil {
		return info, err
	}
	if be.Uint64(hello[:]) != magicGreeting || be.Uint64(hello[8:]) != magicOption {
		return info, errors.New("this is no NBD server")
	}
	const both = flagFixedNewstyle | flagNoZeroes
	if be.Uint16(hello[16:])&both != both {
		return info, fmt.Errorf("the server's handshake flags %#x lack some of %#x", be.Uint16(hello[16:]), both)
	}
	if _, err := c.Write(goOption(export)); err != nil {
		return info, err
	}
	for {
		done, err := optionReply(c, &info)
		if err != nil || done {
			return info, err
		}
	}
}

// goOption is the client's flags, and GO with a wish for the block sizes.
func goOption(export string) []byte {
	b := be.AppendUint32(nil, flagFixedNewstyle|flagNoZeroes)
	b = be.AppendUint64(b, magicOption)
	b = be.AppendUint32(b, optGo)
	b = be.AppendUint32(b, uint32(4+len(export)+2+2))
	b = be.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	b = be.AppendUint16(b, 1)
	return be.AppendUint16(b, infoBlockSize)
}

// optionReply takes one reply to GO; done says that transmission begins.
func optionReply(r io.Reader, info *exportInfo) (done bool, err error) {
	var head [20]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false, err
	}
	kind, length := be.Uint32(head[12:]), be.Uint32(head[16:])
	if be.Uint64(head[:]) != magicOptionReply || be.Uint32(head[8:]) != optGo || length > maxReply {
		return false, errors.New("the server's reply makes no sense")
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(r, data); err != nil {
		return false, err
	}
	switch {
	case kind == repAck:
		return true, info.complete()
	case kind&repError != 0:
		return false, fmt.Errorf("the server refuses: %q", data)
	case kind == repInfo:
		info.take(data)
	}
	return false, nil
}

func (i *exportInfo) take(data []byte) {
	if len(data) < 2 {
		return
	}
	kind, data := be.Uint16(data), data[2:]
	switch {
	case kind == infoExport && len(data) == 10:
		i.size, i.flags = be.Uint64(data), be.Uint16(data[8:])
	case kind == infoBlockSize && len(data) == 12:
		i.blockSize = be.Uint32(data)
	}
}

func (i *exportInfo) complete() error {
	if i.size == 0 || i.flags == 0 {
		return errors.New("the server does not say how large the export is")
	}
	return nil
}
