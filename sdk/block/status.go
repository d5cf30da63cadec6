package block

// Status is how a request ended: OK or a Linux errno number. An errno travels
// unchanged from the server to the guest (DESIGN chapter 2, rule 7).
type Status uint32

// The statuses that the engine itself gives or tells apart. Any other errno
// is passed through.
const (
	OK           Status = 0
	EPERM        Status = 1
	ENOENT       Status = 2
	EIO          Status = 5
	ENXIO        Status = 6
	EAGAIN       Status = 11
	ENOMEM       Status = 12
	EACCES       Status = 13
	EBUSY        Status = 16
	ENODEV       Status = 19
	EINVAL       Status = 22
	EFBIG        Status = 27
	ENOSPC       Status = 28
	EROFS        Status = 30
	EPIPE        Status = 32
	EPROTO       Status = 71
	EBADMSG      Status = 74
	EOVERFLOW    Status = 75
	ENOTSUP      Status = 95
	ECONNRESET   Status = 104
	ESHUTDOWN    Status = 108
	ETIMEDOUT    Status = 110
	ECONNREFUSED Status = 111
	ESTALE       Status = 116

	// MaxStatus is the greatest errno that a plugin may report; above it the
	// engine answers EIO.
	MaxStatus Status = 4095
)

var statusNames = map[Status]string{
	OK: "OK", EPERM: "EPERM", ENOENT: "ENOENT", EIO: "EIO", ENXIO: "ENXIO", EAGAIN: "EAGAIN",
	ENOMEM: "ENOMEM", EACCES: "EACCES", EBUSY: "EBUSY", ENODEV: "ENODEV", EINVAL: "EINVAL",
	EFBIG: "EFBIG", ENOSPC: "ENOSPC", EROFS: "EROFS", EPIPE: "EPIPE", EPROTO: "EPROTO",
	EBADMSG: "EBADMSG", EOVERFLOW: "EOVERFLOW", ENOTSUP: "ENOTSUP", ECONNRESET: "ECONNRESET",
	ESHUTDOWN: "ESHUTDOWN", ETIMEDOUT: "ETIMEDOUT", ECONNREFUSED: "ECONNREFUSED", ESTALE: "ESTALE",
}

// String gives the errno's symbolic name, or "errno N" where it has none here.
func (s Status) String() string {
	if n, ok := statusNames[s]; ok {
		return n
	}
	return "errno " + itoa(uint64(s))
}

// Error makes a Status usable as an error; OK should not be used as one.
func (s Status) Error() string { return s.String() }

// itoa avoids strconv, which a small WebAssembly guest can do without.
func itoa(v uint64) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + v%10)
		if v /= 10; v == 0 {
			return string(b[i:])
		}
	}
}
