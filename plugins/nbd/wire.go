package nbd

import "math/bits"

// Magic numbers ("Handshake", "Reserved Magic values").
const (
	magicServer   uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   uint64 = 0x49484156454f5054 // "IHAVEOPT": newstyle, and before each option
	magicOldstyle uint64 = 0x0000420281861253
	magicOptReply uint64 = 0x0003e889045565a9

	magicRequest    uint32 = 0x25609513
	magicSimple     uint32 = 0x67446698
	magicStructured uint32 = 0x668e33ef
	magicRequestExt uint32 = 0x21e41c71
	magicReplyExt   uint32 = 0x6e8a278c
)

// Handshake flags of the server; the client's flags have the same bits.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Transmission flags ("Transmission flags").
const (
	flagHasFlags        = 1 << 0
	flagReadOnly        = 1 << 1
	flagSendFlush       = 1 << 2
	flagSendFUA         = 1 << 3
	flagRotational      = 1 << 4
	flagSendTrim        = 1 << 5
	flagSendWriteZeroes = 1 << 6
	flagCanMultiConn    = 1 << 8
	flagSendCache       = 1 << 10
	flagSendFastZero    = 1 << 11
)

// Options ("Option types").
const (
	optExportName      uint32 = 1
	optAbort           uint32 = 2
	optList            uint32 = 3
	optGo              uint32 = 7
	optStructuredReply uint32 = 8
	optSetMetaContext  uint32 = 10
	optExtendedHeaders uint32 = 11
)

// Option replies ("Option reply types"). repErr is set in all errors.
const (
	repAck         uint32 = 1
	repServer      uint32 = 2
	repInfo        uint32 = 3
	repMetaContext uint32 = 4

	repErr              uint32 = 1 << 31
	repErrUnsup         uint32 = repErr + 1
	repErrPolicy        uint32 = repErr + 2
	repErrInvalid       uint32 = repErr + 3
	repErrPlatform      uint32 = repErr + 4
	repErrTLSReqd       uint32 = repErr + 5
	repErrUnknown       uint32 = repErr + 6
	repErrShutdown      uint32 = repErr + 7
	repErrBlockSizeReqd uint32 = repErr + 8
	repErrTooBig        uint32 = repErr + 9
	repErrExtHeaderReqd uint32 = repErr + 10
)

// Information types of GO.
const (
	infoExport    = 0
	infoName      = 1
	infoBlockSize = 3
)

// Requests ("Request types") and their flags ("Command flags").
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdCache       = 5
	cmdWriteZeroes = 6
	cmdBlockStatus = 7

	cmdFlagFUA        = 1 << 0
	cmdFlagNoHole     = 1 << 1
	cmdFlagReqOne     = 1 << 3
	cmdFlagFastZero   = 1 << 4
	cmdFlagPayloadLen = 1 << 5 // extended headers: the length is a payload's
)

// Reply chunks ("Structured reply types"). chunkErr is set in all errors.
const (
	replyDone = 1 << 0 // a flag: the last chunk of its reply

	chunkNone           uint16 = 0
	chunkOffsetData     uint16 = 1
	chunkOffsetHole     uint16 = 2
	chunkBlockStatus    uint16 = 5
	chunkBlockStatusExt uint16 = 6

	chunkErr         uint16 = 1 << 15
	chunkErrorOffset uint16 = chunkErr + 2
)

// Sizes of headers in bytes.
const (
	sizeGreeting   = 18
	sizeOption     = 16
	sizeOptReply   = 20
	sizeRequest    = 28
	sizeRequestExt = 32
	sizeSimple     = 16
	sizeStructured = 20
	sizeReplyExt   = 32
)

// Limits of the protocol text.
const (
	maxString         = 4096     // "Conventions"
	defaultMaxPayload = 32 << 20 // "Size constraints"
	maxMinBlock       = 64 << 10
)

const contextAllocation = "base:allocation"

// The wire is big endian. Values are turned around in registers and moved
// whole, because compilers join the byte-wise moves of one word only in the
// machine's own order where it has no instruction to swap (WebAssembly).

func putNative32(b []byte, v uint32) {
	_ = b[3]
	b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}

func putNative64(b []byte, v uint64) {
	_ = b[7]
	b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
	b[4], b[5], b[6], b[7] = byte(v>>32), byte(v>>40), byte(v>>48), byte(v>>56)
}

func native32(b []byte) uint32 {
	_ = b[3]
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func native64(b []byte) uint64 {
	_ = b[7]
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}

func put32(b []byte, v uint32) { putNative32(b, bits.ReverseBytes32(v)) }
func put64(b []byte, v uint64) { putNative64(b, bits.ReverseBytes64(v)) }
func get16(b []byte) uint16    { return uint16(b[0])<<8 | uint16(b[1]) }
func get32(b []byte) uint32    { return bits.ReverseBytes32(native32(b)) }
func get64(b []byte) uint64    { return bits.ReverseBytes64(native64(b)) }

func append16(b []byte, v uint16) []byte { return append(b, byte(v>>8), byte(v)) }
func append32(b []byte, v uint32) []byte {
	return append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}
