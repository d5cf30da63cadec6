package nbdtest

import (
	"encoding/binary"
	"fmt"
)

// All integers on the wire are big endian.
var be = binary.BigEndian

// Magic numbers of both phases.
const (
	MagicInit      uint64 = 0x4e42444d41474943 // "NBDMAGIC", first in every greeting
	MagicOption    uint64 = 0x49484156454f5054 // "IHAVEOPT", newstyle greeting and each option
	MagicOldstyle  uint64 = 0x00420281861253   // second word of an oldstyle greeting
	MagicOptReply  uint64 = 0x0003e889045565a9
	MagicRequest   uint32 = 0x25609513
	MagicSimple    uint32 = 0x67446698
	MagicChunk     uint32 = 0x668e33ef // structured reply chunk
	MagicRequestEx uint32 = 0x21e41c71 // extended request
	MagicChunkEx   uint32 = 0x6e8a278c // extended reply chunk
)

// Handshake flags (server, 16 bits) and client flags (32 bits).
const (
	HandshakeFixedNewstyle uint16 = 1 << 0
	HandshakeNoZeroes      uint16 = 1 << 1

	ClientFixedNewstyle uint32 = 1 << 0
	ClientNoZeroes      uint32 = 1 << 1
)

// Transmission flags: what an export can do.
const (
	FlagHasFlags           uint16 = 1 << 0
	FlagReadOnly           uint16 = 1 << 1
	FlagSendFlush          uint16 = 1 << 2
	FlagSendFUA            uint16 = 1 << 3
	FlagRotational         uint16 = 1 << 4
	FlagSendTrim           uint16 = 1 << 5
	FlagSendWriteZeroes    uint16 = 1 << 6
	FlagSendDF             uint16 = 1 << 7
	FlagMultiConn          uint16 = 1 << 8
	FlagSendResize         uint16 = 1 << 9
	FlagSendCache          uint16 = 1 << 10
	FlagSendFastZero       uint16 = 1 << 11
	FlagBlockStatusPayload uint16 = 1 << 12
)

// Option types of the handshake.
const (
	OptExportName      uint32 = 1
	OptAbort           uint32 = 2
	OptList            uint32 = 3
	OptPeekExport      uint32 = 4
	OptStartTLS        uint32 = 5
	OptInfo            uint32 = 6
	OptGo              uint32 = 7
	OptStructuredReply uint32 = 8
	OptListMetaContext uint32 = 9
	OptSetMetaContext  uint32 = 10
	OptExtendedHeaders uint32 = 11
)

// Option reply types. Those with bit 31 are errors.
const (
	RepAck         uint32 = 1
	RepServer      uint32 = 2
	RepInfo        uint32 = 3
	RepMetaContext uint32 = 4

	repErrBit           uint32 = 1 << 31
	RepErrUnsup         uint32 = repErrBit + 1
	RepErrPolicy        uint32 = repErrBit + 2
	RepErrInvalid       uint32 = repErrBit + 3
	RepErrPlatform      uint32 = repErrBit + 4
	RepErrTLSReqd       uint32 = repErrBit + 5
	RepErrUnknown       uint32 = repErrBit + 6
	RepErrShutdown      uint32 = repErrBit + 7
	RepErrBlockSizeReqd uint32 = repErrBit + 8
	RepErrTooBig        uint32 = repErrBit + 9
	RepErrExtHeaderReqd uint32 = repErrBit + 10
)

// Information types of INFO and GO.
const (
	InfoExport      uint16 = 0
	InfoName        uint16 = 1
	InfoDescription uint16 = 2
	InfoBlockSize   uint16 = 3
)

// Commands.
const (
	CmdRead        uint16 = 0
	CmdWrite       uint16 = 1
	CmdDisc        uint16 = 2
	CmdFlush       uint16 = 3
	CmdTrim        uint16 = 4
	CmdCache       uint16 = 5
	CmdWriteZeroes uint16 = 6
	CmdBlockStatus uint16 = 7
	CmdResize      uint16 = 8
)

// Command flags.
const (
	CmdFlagFUA        uint16 = 1 << 0
	CmdFlagNoHole     uint16 = 1 << 1
	CmdFlagDF         uint16 = 1 << 2
	CmdFlagReqOne     uint16 = 1 << 3
	CmdFlagFastZero   uint16 = 1 << 4
	CmdFlagPayloadLen uint16 = 1 << 5
)

// Reply chunks: flags and types. Types with bit 15 are errors.
const (
	ReplyFlagDone uint16 = 1 << 0

	ReplyNone           uint16 = 0
	ReplyOffsetData     uint16 = 1
	ReplyOffsetHole     uint16 = 2
	ReplyBlockStatus    uint16 = 5
	ReplyBlockStatusExt uint16 = 6
	replyErrBit         uint16 = 1 << 15
	ReplyError          uint16 = replyErrBit + 1
	ReplyErrorOffset    uint16 = replyErrBit + 2
)

// Error values that the protocol allows.
const (
	EPERM     uint32 = 1
	EIO       uint32 = 5
	ENOMEM    uint32 = 12
	EINVAL    uint32 = 22
	ENOSPC    uint32 = 28
	EOVERFLOW uint32 = 75
	ENOTSUP   uint32 = 95
	ESHUTDOWN uint32 = 108
)

// Status flags of the base:allocation metadata context.
const (
	StateHole uint64 = 1 << 0
	StateZero uint64 = 1 << 1
)

// BaseAllocation is the one metadata context that the protocol text defines.
const BaseAllocation = "base:allocation"

// MaxString is the longest string of the protocol, in bytes ("Strings").
const MaxString = 4096

// Fixed sizes on the wire, in bytes.
const (
	sizeGreeting   = 18 // two magics and the handshake flags
	sizeOldstyle   = 152
	sizeOption     = 16
	sizeOptReply   = 20
	sizeRequest    = 28
	sizeRequestEx  = 32
	sizeSimple     = 16
	sizeChunk      = 20
	sizeChunkEx    = 32
	sizeZeroes     = 124 // after EXPORT_NAME, unless NO_ZEROES
	maxRepLength   = 64 << 10
	maxOptLength   = 64 << 10
	maxPayload     = 64 << 20 // what the kit itself will hold for one message
	maxExtents     = 1 << 20
	defaultPayload = 32 << 20
)

// header is a request header in either form.
type header struct {
	Flags, Op      uint16
	Cookie, Offset uint64
	Length         uint64
}

// encode appends the header in compact (28 bytes) or extended (32 bytes) form.
func (h header) encode(b []byte, extended bool) []byte {
	if extended {
		b = be.AppendUint32(b, MagicRequestEx)
	} else {
		b = be.AppendUint32(b, MagicRequest)
	}
	b = be.AppendUint16(b, h.Flags)
	b = be.AppendUint16(b, h.Op)
	b = be.AppendUint64(b, h.Cookie)
	b = be.AppendUint64(b, h.Offset)
	if extended {
		return be.AppendUint64(b, h.Length)
	}
	return be.AppendUint32(b, uint32(h.Length))
}

// decodeHeader reads a header of the form that was negotiated; b has its size.
func decodeHeader(b []byte, extended bool) (header, error) {
	magic, want := be.Uint32(b), MagicRequest
	if extended {
		want = MagicRequestEx
	}
	if magic != want {
		return header{}, fmt.Errorf("request magic %#x, want %#x", magic, want)
	}
	h := header{Flags: be.Uint16(b[4:]), Op: be.Uint16(b[6:]), Cookie: be.Uint64(b[8:]), Offset: be.Uint64(b[16:])}
	if extended {
		h.Length = be.Uint64(b[24:])
	} else {
		h.Length = uint64(be.Uint32(b[24:]))
	}
	return h, nil
}

// EncodeOption gives the bytes of a handshake option.
func EncodeOption(opt uint32, data []byte) []byte {
	b := be.AppendUint64(nil, MagicOption)
	b = be.AppendUint32(b, opt)
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// EncodeRequest gives the bytes of a compact (or extended) request, payload
// included. Nothing is checked: tests send nonsense with it.
func EncodeRequest(extended bool, flags, op uint16, cookie, offset, length uint64, payload []byte) []byte {
	h := header{Flags: flags, Op: op, Cookie: cookie, Offset: offset, Length: length}
	return append(h.encode(nil, extended), payload...)
}

var cmdNames = [...]string{"read", "write", "disc", "flush", "trim", "cache", "write-zeroes", "block-status", "resize"}

// CmdName names a command for messages.
func CmdName(op uint16) string {
	if int(op) < len(cmdNames) {
		return cmdNames[op]
	}
	return fmt.Sprintf("command %d", op)
}

var errnoNames = map[uint32]string{EPERM: "EPERM", EIO: "EIO", ENOMEM: "ENOMEM", EINVAL: "EINVAL",
	ENOSPC: "ENOSPC", EOVERFLOW: "EOVERFLOW", ENOTSUP: "ENOTSUP", ESHUTDOWN: "ESHUTDOWN"}

// Errno is an error value that a server sent.
type Errno uint32

func (e Errno) Error() string {
	if n, ok := errnoNames[uint32(e)]; ok {
		return "server says " + n
	}
	return fmt.Sprintf("server says error %d", uint32(e))
}
