;; Loops for ever when it is to take leave.
(func $goodbye (loop $l (br $l)))
