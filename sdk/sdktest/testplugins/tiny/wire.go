package tiny

import "encoding/binary"

// The tiny protocol: little endian, made to exercise every part of the plugin
// contract. The client sends requests of 24 bytes:
//
//	op u8, mods u8, zero u16, length u32, cookie u64, offset u64
//
// A write is followed by its payload; with FeatureHash the payload is preceded
// by its SHA-256, with FeatureDigest it is followed by the CRC32C of request
// header and payload. The server sends replies of 16 bytes:
//
//	status u16, kind u8, zero u8, length u32, cookie u64
//
// followed by length bytes. With FeatureDigest the data of a ReplyData is
// followed by its CRC32C, which length counts.
const (
	SizeRequest = 24
	SizeReply   = 16
)

// Operations: those of package block, and these.
const (
	OpHello  = 0x80 // length: features wanted; offset: the session's token, 0 for a new one
	OpBye    = 0x81
	OpCancel = 0x82 // offset: the cookie of a request to cancel
	OpPing   = 0x83
)

// Kinds of replies.
const (
	ReplyEnd       = 0 // the request is finished with status
	ReplyData      = 1 // u64 offset in the request, then data
	ReplyZero      = 2 // u64 offset in the request, u64 length
	ReplyExtents   = 3 // u64 length, u64 state, several times
	ReplyHello     = 4 // u64 size, u32 block size, u32 credits, u64 token
	ReplyCancelled = 5 // the request was cancelled and never executed
	ReplySize      = 6 // news: u64 size
	ReplyPath      = 7 // news: u64 state
	ReplyRedirect  = 8 // news: an address
)

// Features, as bits of OpHello; the option features names them.
const (
	FeatureDigest    = 1 << 0 // CRC32C
	FeatureHash      = 1 << 1 // SHA-256
	FeatureCredits   = 1 << 2 // the server's credits limit what is outstanding
	FeatureKeepAlive = 1 << 3 // the client pings each second
	FeatureSession   = 1 << 4 // several connections, which share a token
)

var featureNames = [...]string{"digest", "hash", "credits", "keepalive", "session"}

var le = binary.LittleEndian

func putRequest(b []byte, op, mods uint8, length uint32, cookie, offset uint64) {
	b = b[:SizeRequest]
	b[0], b[1], b[2], b[3] = op, mods, 0, 0
	le.PutUint32(b[4:], length)
	le.PutUint64(b[8:], cookie)
	le.PutUint64(b[16:], offset)
}
