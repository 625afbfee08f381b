"""The helpers of nvflare.app_opt.p2p under their names there."""
