package ublk

// Report says what this kernel can do.
type Report struct {
	Usable     bool     // devices can be made, by this process
	Missing    []string // what is in the way, each with how to mend it
	Notes      []string // what is not as good as it could be
	Features   uint64   // UBLK_F_… bits as the kernel tells; 0: it is older than 6.5, or not Usable
	Names      []string // those of Features
	MaxDevices int      // ublks_max of devices that users may make; 0: unknown
	Devices    int      // that are there
}

// Probe looks at what there is, without making anything.
func Probe() Report { return Report{} }
