package nbd

import "encoding/binary"

// Everything on the wire is big endian. The names are those of the protocol
// text, "Values", without their NBD_ prefix.
var be = binary.BigEndian

// Magic numbers.
const (
	magicGreeting      uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption        uint64 = 0x49484156454f5054 // "IHAVEOPT"
	magicOptionReply   uint64 = 0x3e889045565a9
	magicRequest       uint32 = 0x25609513
	magicSimpleReply   uint32 = 0x67446698
	magicChunk         uint32 = 0x668e33ef // structured reply
	magicExtRequest    uint32 = 0x21e41c71
	magicExtReply      uint32 = 0x6e8a278c
	greetingSize              = 18
	optionHeaderSize          = 16
	optionReplySize           = 20
	exportNameReply           = 10
	exportNamePadding         = 124
	compactRequestSize        = 28
	extRequestSize            = 32
	simpleReplySize           = 16
	chunkSize                 = 20
	extReplySize              = 32
)

// Handshake flags, the server's and the client's; the bits are the same.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Transmission flags.
const (
	flagHasFlags        uint16 = 1 << 0
	flagReadOnly        uint16 = 1 << 1
	flagSendFlush       uint16 = 1 << 2
	flagSendFUA         uint16 = 1 << 3
	flagRotational      uint16 = 1 << 4
	flagSendTrim        uint16 = 1 << 5
	flagSendWriteZeroes uint16 = 1 << 6
	flagSendDF          uint16 = 1 << 7
	flagCanMultiConn    uint16 = 1 << 8
	flagSendCache       uint16 = 1 << 10
	flagSendFastZero    uint16 = 1 << 11
)

// Options.
const (
	optExportName      uint32 = 1
	optAbort           uint32 = 2
	optList            uint32 = 3
	optStartTLS        uint32 = 5
	optInfo            uint32 = 6
	optGo              uint32 = 7
	optStructuredReply uint32 = 8
	optListMetaContext uint32 = 9
	optSetMetaContext  uint32 = 10
	optExtendedHeaders uint32 = 11
)

// Option replies.
const (
	repAck              uint32 = 1
	repServer           uint32 = 2
	repInfo             uint32 = 3
	repMetaContext      uint32 = 4
	repErr              uint32 = 1 << 31
	repErrUnsup                = repErr + 1
	repErrInvalid              = repErr + 3
	repErrUnknown              = repErr + 6
	repErrTooBig               = repErr + 9
	repErrExtHeaderReqd        = repErr + 10
)

// Information types of INFO and GO.
const (
	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

// Commands.
const (
	cmdRead        uint16 = 0
	cmdWrite       uint16 = 1
	cmdDisc        uint16 = 2
	cmdFlush       uint16 = 3
	cmdTrim        uint16 = 4
	cmdCache       uint16 = 5
	cmdWriteZeroes uint16 = 6
	cmdBlockStatus uint16 = 7
)

// Command flags.
const (
	cmdFlagFUA        uint16 = 1 << 0
	cmdFlagNoHole     uint16 = 1 << 1
	cmdFlagDF         uint16 = 1 << 2
	cmdFlagReqOne     uint16 = 1 << 3
	cmdFlagFastZero   uint16 = 1 << 4
	cmdFlagPayloadLen uint16 = 1 << 5
)

// Reply chunks: the flag, and the types.
const (
	replyFlagDone       uint16 = 1 << 0
	replyNone           uint16 = 0
	replyOffsetData     uint16 = 1
	replyBlockStatus    uint16 = 5
	replyBlockStatusExt uint16 = 6
	replyError          uint16 = 1<<15 + 1
)

// Limits of the text: strings, and the payload that every server takes.
const (
	maxString  = 4096
	maxPayload = 32 << 20
)

// The one metadata context, and its id.
const (
	baseAllocation          = "base:allocation"
	baseWildcard            = "base:"
	baseAllocationID uint32 = 1
)

// header is a request's, of either size.
type header struct {
	flags, command uint16
	cookie         uint64
	offset, length uint64
}

// framing is the form of requests and replies that was negotiated.
type framing uint8

const (
	simple     framing = iota
	structured         // replies in chunks
	extended           // 64-bit requests, and replies in chunks of their own form
)

// requestSize is the size of a request's header in bytes.
func (f framing) requestSize() int {
	if f == extended {
		return extRequestSize
	}
	return compactRequestSize
}

// decode reads a header, of which b has requestSize bytes; ok is whether its
// magic number is right.
func (f framing) decode(b []byte) (h header, ok bool) {
	b = b[:f.requestSize()]
	h = header{
		flags: be.Uint16(b[4:]), command: be.Uint16(b[6:]),
		cookie: be.Uint64(b[8:]), offset: be.Uint64(b[16:]),
	}
	if f == extended {
		h.length = be.Uint64(b[24:])
		return h, be.Uint32(b) == magicExtRequest
	}
	h.length = uint64(be.Uint32(b[24:]))
	return h, be.Uint32(b) == magicRequest
}

// hasPayload tells whether length bytes follow the header.
func (f framing) hasPayload(h *header) bool {
	if f == extended {
		return h.flags&cmdFlagPayloadLen != 0
	}
	return h.command == cmdWrite
}

// readRoom is what stands in front of the data of a read's reply, and doneRoom
// the size of a reply without data.
func (f framing) readRoom() int {
	return [...]int{simpleReplySize, chunkSize + 8, extReplySize + 8}[f]
}

func (f framing) doneRoom() int {
	return [...]int{simpleReplySize, simpleReplySize, extReplySize}[f]
}

// maxErrorRoom is the largest reply that putError makes.
const maxErrorRoom = extReplySize + 6

func putSimple(b []byte, errno uint32, cookie uint64) {
	b = b[:simpleReplySize]
	be.PutUint32(b, magicSimpleReply)
	be.PutUint32(b[4:], errno)
	be.PutUint64(b[8:], cookie)
}

// putChunk writes the header of the only, and so last, chunk of a reply, in
// the form that f asks for, and gives the rest of b.
func (f framing) putChunk(b []byte, kind uint16, cookie, offset uint64, length int) []byte {
	be.PutUint16(b[4:], replyFlagDone)
	be.PutUint16(b[6:], kind)
	be.PutUint64(b[8:], cookie)
	if f == extended {
		be.PutUint32(b, magicExtReply)
		be.PutUint64(b[16:], offset)
		be.PutUint64(b[24:], uint64(length))
		return b[extReplySize:]
	}
	be.PutUint32(b, magicChunk)
	be.PutUint32(b[16:], uint32(length))
	return b[chunkSize:]
}

// putRead writes what stands in front of length bytes that were read.
func (f framing) putRead(b []byte, cookie, offset uint64, length int) {
	if f == simple {
		putSimple(b, 0, cookie)
		return
	}
	be.PutUint64(f.putChunk(b, replyOffsetData, cookie, offset, 8+length), offset)
}

// putDone writes a successful reply without data.
func (f framing) putDone(b []byte, cookie, offset uint64) {
	if f == extended {
		f.putChunk(b, replyNone, cookie, offset, 0)
		return
	}
	putSimple(b, 0, cookie)
}

// putError writes a reply that says errno, an NBD error, and gives its size.
// Where chunks are negotiated a read must be, and others may be, answered by one.
func (f framing) putError(b []byte, errno uint32, cookie, offset uint64, chunk bool) int {
	if f == simple || f == structured && !chunk {
		putSimple(b, errno, cookie)
		return simpleReplySize
	}
	rest := f.putChunk(b, replyError, cookie, offset, 6)
	be.PutUint32(rest, errno)
	be.PutUint16(rest[4:], 0) // no message
	if f == extended {
		return extReplySize + 6
	}
	return chunkSize + 6
}
