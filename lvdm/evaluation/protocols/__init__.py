"""What a score depends on besides the two sets of videos: protocols, which clips they take, their pixels, manifests."""
