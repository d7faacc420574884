#include "textflag.h"

// func delimitersAVX2(b *byte, out *uint64, blocks int)
TEXT ·delimitersAVX2(SB), NOSPLIT, $0-24
	MOVQ b+0(FP), SI
	MOVQ out+8(FP), DI
	MOVQ blocks+16(FP), CX
	MOVL $0x2c, AX // comma
	MOVQ AX, X0
	VPBROADCASTB X0, Y0
	MOVL $0x0a, AX // newline
	MOVQ AX, X1
	VPBROADCASTB X1, Y1

block:
	VMOVDQU (SI), Y2
	VMOVDQU 32(SI), Y3
	VPCMPEQB Y2, Y0, Y4
	VPCMPEQB Y2, Y1, Y5
	VPCMPEQB Y3, Y0, Y6
	VPCMPEQB Y3, Y1, Y7
	VPOR Y4, Y5, Y4
	VPOR Y6, Y7, Y6
	VPMOVMSKB Y4, AX
	VPMOVMSKB Y6, DX
	SHLQ $32, DX
	ORQ DX, AX
	MOVQ AX, (DI)
	ADDQ $64, SI
	ADDQ $8, DI
	DECQ CX
	JNZ block
	VZEROUPPER
	RET
