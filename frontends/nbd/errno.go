package nbd

import "blockengine/sdk/block"

// The errors that the protocol knows ("Error values").
const (
	nbdEPERM     uint32 = 1
	nbdEIO       uint32 = 5
	nbdENOMEM    uint32 = 12
	nbdEINVAL    uint32 = 22
	nbdENOSPC    uint32 = 28
	nbdEOVERFLOW uint32 = 75
	nbdENOTSUP   uint32 = 95
	nbdESHUTDOWN uint32 = 108
)

// edquot is what a file system says whose quota is used up.
const edquot block.Status = 122

// errno gives the protocol's error that is nearest to a volume's. What has no
// near one is an I/O error: a client must not take a failing disk for a
// request of its own that was wrong.
func errno(s block.Status) uint32 {
	switch s {
	case block.EPERM, block.EACCES, block.EROFS:
		return nbdEPERM
	case block.ENOMEM:
		return nbdENOMEM
	case block.EINVAL:
		return nbdEINVAL
	case block.ENOSPC, block.EFBIG, edquot:
		return nbdENOSPC
	case block.EOVERFLOW:
		return nbdEOVERFLOW
	case block.ENOTSUP:
		return nbdENOTSUP
	case block.ESHUTDOWN:
		return nbdESHUTDOWN
	}
	return nbdEIO
}
